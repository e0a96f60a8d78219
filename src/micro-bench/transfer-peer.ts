// Another node: owns a pool and serves its blocks over TCP.
import { createTransferAgent } from '../kv-transfer/create-agent.js';
import type { KvPoolLayout } from '../native/kv-pool-layout.js';
import { contiguousIds, createFilledPool } from './blocks.js';

export interface TransferPeerAddress {
  /** Of the agent's side channel. */
  readonly port: number;
}

export const peerEngineId = 'peer';
export const peerCompatibility = 'micro-bench';

export async function serveTransfers(layout: KvPoolLayout): Promise<void> {
  const pool = createFilledPool(layout);
  const agent = await createTransferAgent({
    config: { agent: 'tcp', sideChannelHost: '127.0.0.1', sideChannelPort: 0 },
    engineId: peerEngineId,
    pool,
    compatibility: peerCompatibility,
  });
  agent.holds.grant('held', contiguousIds(layout.numBlocks), Number.POSITIVE_INFINITY);
  process.send?.({ port: agent.port } satisfies TransferPeerAddress);
}
