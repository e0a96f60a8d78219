// Starts a node's transfer agent.
import type { KvTransferConfig } from '../config.js';
import { VllmPdError } from '../errors.js';
import type { KvPool } from '../native.js';
import type { TransferAgent } from './agent.js';

export interface TransferAgentOptions {
  readonly config: KvTransferConfig;
  readonly engineId: string;
  readonly pool: KvPool;
  /** What two nodes must agree on to exchange KV, beside the pool's shape: model fingerprint, hash seed check value. */
  readonly compatibility: string;
}

/** Rejects with ADDRESS_IN_USE when the side channel's port is taken. */
export async function createTransferAgent(_options: TransferAgentOptions): Promise<TransferAgent> {
  throw new VllmPdError('NOT_SUPPORTED', 'The transfer agent is being written.');
}
