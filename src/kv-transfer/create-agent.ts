// Starts a node's transfer agent.
import type { KvTransferConfig } from '../config.js';
import { VllmPdError } from '../errors.js';
import { createLogger } from '../log.js';
import type { KvPool } from '../native.js';
import type { TransferAgent } from './agent.js';
import { compatibilityHash, hostIdentity } from './handshake.js';
import type { Welcome } from './messages.js';
import { SideChannelAgent } from './side-channel-agent.js';
import { SideChannelServer } from './side-channel-server.js';

export interface TransferAgentOptions {
  readonly config: Pick<KvTransferConfig, 'agent' | 'sideChannelHost' | 'sideChannelPort'>;
  readonly engineId: string;
  /** Stays the caller's: close it after the agent. */
  readonly pool: KvPool;
  /** What two nodes must agree on to exchange KV, beside the pool's shape: model fingerprint, hash seed check value. */
  readonly compatibility: string;
}

/** Listening on it is fine, but peers are told this address, and it leads each of them to itself. */
const unreachableHosts = new Set(['', '0.0.0.0', '::']);

/** Rejects with ADDRESS_IN_USE when the side channel's port is taken, INVALID_ARGUMENT when peers could not reach its host. */
export async function createTransferAgent(options: TransferAgentOptions): Promise<TransferAgent> {
  const { config, engineId, pool, compatibility } = options;
  if (unreachableHosts.has(config.sideChannelHost)) {
    const message = `Expected an address under which peers reach this node but received '${config.sideChannelHost}'.`;
    throw new VllmPdError('INVALID_ARGUMENT', message, {
      param: 'side_channel_host',
      suggestions: ["Give --side-channel-host this host's own address."],
    });
  }
  const logger = createLogger('kv-transfer');
  const identity: Welcome = {
    compatibility_hash: compatibilityHash(pool.layout, compatibility),
    engine_id: engineId,
    host_identity: hostIdentity(),
    pid: process.pid,
    pool_fd: pool.fd,
    num_blocks: pool.layout.numBlocks,
  };
  const server = new SideChannelServer({ pool, identity, logger });
  const port = await server.listen(config.sideChannelHost, config.sideChannelPort);
  return new SideChannelAgent({
    host: config.sideChannelHost,
    port,
    kind: config.agent,
    pool,
    identity,
    server,
    logger,
  });
}
