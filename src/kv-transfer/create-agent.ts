// Starts a node's transfer agent.
import type { KvTransferConfig } from '../config.js';
import { defaults } from '../engine-options.js';
import { VllmPdError } from '../errors.js';
import { createLogger } from '../log.js';
import type { KvPool } from '../native/kv-pool.js';
import { loadNative } from '../native.js';
import type { TransferAgent } from './agent.js';
import { compatibilityHash, hostIdentity } from './handshake.js';
import type { Welcome } from './messages.js';
import { isLoopback, PeerPolicy } from './peer-policy.js';
import { SideChannelAgent } from './side-channel-agent.js';
import { SideChannelServer } from './side-channel-server.js';

export interface TransferAgentOptions {
  readonly config: Pick<KvTransferConfig, 'agent' | 'sideChannelHost' | 'sideChannelPort'> &
    Partial<Pick<KvTransferConfig, 'key' | 'insecure' | 'kvPeerTimeoutMs'>>;
  readonly engineId: string;
  /** Stays the caller's: close it after the agent. */
  readonly pool: KvPool;
  /** What two nodes must agree on to exchange KV, beside the pool's shape: model fingerprint, hash seed check value. */
  readonly compatibility: string;
  /** Whom this node may connect to; default: this machine. */
  readonly peers?: PeerPolicy;
}

/** Listening on it is fine, but peers are told this address, and it leads each of them to itself. */
const unreachableHosts = new Set(['', '0.0.0.0', '::']);

/** Rejects with ADDRESS_IN_USE when the side channel's port is taken, INVALID_ARGUMENT when peers could not reach its host or everybody could. */
export async function createTransferAgent(options: TransferAgentOptions): Promise<TransferAgent> {
  const { config, engineId, pool, compatibility } = options;
  if (unreachableHosts.has(config.sideChannelHost)) {
    const message = `Expected an address under which peers reach this node but received '${config.sideChannelHost}'.`;
    throw new VllmPdError('INVALID_ARGUMENT', message, {
      param: 'side_channel_host',
      suggestions: ["Give --side-channel-host this host's own address."],
    });
  }
  checkKey(config);
  const logger = createLogger('kv-transfer');
  const identity: Welcome = {
    compatibility_hash: compatibilityHash(pool.layout, compatibility),
    engine_id: engineId,
    host_identity: hostIdentity(),
    pid: process.pid,
    pool_fd: pool.fd,
    num_blocks: pool.layout.numBlocks,
  };
  const key = config.key ?? null;
  const holds = loadNative().createHoldTable();
  const server = new SideChannelServer({ pool, holds, identity, logger, key });
  const port = await server.listen(config.sideChannelHost, config.sideChannelPort);
  return new SideChannelAgent({
    host: config.sideChannelHost,
    port,
    kind: config.agent,
    pool,
    holds,
    identity,
    server,
    logger,
    key,
    timeoutMs: config.kvPeerTimeoutMs ?? defaults.kvPeerTimeoutMs,
    peers: options.peers ?? new PeerPolicy(),
  });
}

/** Shorter ones can be found by trying. */
const minKeyChars = 16;

function checkKey({ key, insecure, sideChannelHost }: TransferAgentOptions['config']): void {
  if (key != null && key.length < minKeyChars) {
    const message = `Expected a KV transfer key of at least ${minKeyChars} characters but received one of ${key.length}.`;
    throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'kv-transfer-key' });
  }
  if (key != null || insecure || isLoopback(sideChannelHost)) return;
  const message = `Expected a KV transfer key, since other hosts reach the side channel on ${sideChannelHost}, but received none.`;
  throw new VllmPdError('INVALID_ARGUMENT', message, {
    param: 'kv-transfer-key',
    suggestions: [
      'Set VLLM_PD_KV_TRANSFER_KEY to the same secret for all nodes.',
      'Where nobody else is on that network, say --insecure-kv-transfer.',
    ],
  });
}
