// Starts a node's transfer agent.
import type { KvTransferConfig } from '../config.js';
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

/** Rejects with ADDRESS_IN_USE when the side channel's port is taken. */
export async function createTransferAgent(options: TransferAgentOptions): Promise<TransferAgent> {
  const { config, engineId, pool, compatibility } = options;
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
