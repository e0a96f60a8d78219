// Reads by the TCP agent on loopback against a raw socket stream of as many bytes, each from another process.
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createTransferAgent } from '../kv-transfer/create-agent.js';
import { loadNative, type NativeModelConfig } from '../native.js';
import type { PullSpec } from '../outputs.js';
import { blockLayout, contiguousIds, hashOfBlock } from './blocks.js';
import { startPeer } from './peer.js';
import type { Contest, RowGroup } from './row-plan.js';
import { peerCompatibility, peerEngineId, type TransferPeerAddress } from './transfer-peer.js';

const blockCounts = [16, 256] as const;

export function tcpGroups(model: NativeModelConfig): RowGroup[] {
  const rows = blockCounts.map((count) => ({
    name: `tcp ${count} blocks`,
    threads: 1,
    unit: 'GB/s',
    limit: 'raw socket stream',
    prepare: () => prepareRead(model, count),
  }));
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
  const socket = connect(peer.address.rawPort, '127.0.0.1');
  await once(socket, 'connect');
  const numBytes = numBlocks * pool.blockBytes;
  return {
    subject: {
      amount: numBytes / 1e9,
      run: async () => {
        const { valid } = await agent.read(pull, pool);
        if (valid.includes(0)) throw new Error('Expected every block to arrive but one did not');
      },
    },
    limit: { amount: numBytes / 1e9, run: () => receive(socket, numBytes) },
    close: async () => {
      socket.destroy();
      await agent.close();
      pool.close();
      await peer.close();
    },
  };
}

/** Asks the peer for this many bytes and looks at none of them. */
function receive(socket: Socket, numBytes: number): Promise<void> {
  return new Promise((resolve, reject) => {
    let left = numBytes;
    const settle = (error?: Error) => {
      socket.off('data', count).off('error', settle);
      if (error) reject(error);
      else resolve();
    };
    const count = (chunk: Buffer) => {
      left -= chunk.length;
      if (left <= 0) settle();
    };
    socket.on('data', count).on('error', settle);
    const request = Buffer.alloc(4);
    request.writeUInt32LE(numBytes);
    socket.write(request);
  });
}
