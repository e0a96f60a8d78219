// Reads by the TCP agent, from another process, against raw streams of as many bytes over as many connections.
import { numLanes } from '../kv-transfer/agent-tcp.js';
import { createTransferAgent } from '../kv-transfer/create-agent.js';
import type { NativeModelConfig } from '../native/model-config.js';
import { loadNative } from '../native.js';
import type { PullSpec } from '../outputs.js';
import { blockLayout, contiguousIds, hashOfBlock } from './blocks.js';
import { startPeer } from './peer.js';
import { socketStream, withProbeLimit } from './probe-work.js';
import type { Contest, RowGroup, RowPlan } from './row-plan.js';
import { peerCompatibility, peerEngineId, type TransferPeerAddress } from './transfer-peer.js';

const blockCounts = [16, 256] as const;

export function tcpGroups(model: NativeModelConfig): RowGroup[] {
  const rows = blockCounts.map(
    (count): RowPlan => ({
      name: `tcp ${count} blocks`,
      threads: numLanes,
      unit: 'GB/s',
      limit: 'raw socket streams',
      asked: { kind: 'ratio', atLeast: 0.85 },
      prepare: () => prepareRead(model, count),
    }),
  );
  return [{ family: 'transfer', rows }];
}

async function prepareRead(model: NativeModelConfig, numBlocks: number): Promise<Contest> {
  const layout = blockLayout(model, numBlocks);
  const peer = await startPeer<TransferPeerAddress>({ kind: 'transfer', layout });
  const pool = loadNative().createPool(layout);
  const agent = await createTransferAgent({
    config: { agent: 'tcp', sideChannelHost: '127.0.0.1', sideChannelPort: 0 },
    engineId: 'reader',
    pool,
    compatibility: peerCompatibility,
  });
  const ids = contiguousIds(numBlocks);
  const pull: PullSpec = {
    requestId: 'pull',
    remote: { engineId: peerEngineId, host: '127.0.0.1', port: peer.address.port, requestId: 'held' },
    remoteBlockIds: ids,
    localBlockIds: ids,
    blockHashes: ids.map(hashOfBlock),
  };
  const numBytes = numBlocks * pool.blockBytes;
  const subject = {
    amount: numBytes / 1e9,
    run: async () => {
      const { valid } = await agent.read(pull, pool);
      if (valid.includes(0)) throw new Error('Expected every block to arrive but one did not');
    },
  };
  return withProbeLimit(subject, socketStream(numLanes, numBytes), async () => {
    await agent.close();
    pool.close();
    await peer.close();
  });
}
