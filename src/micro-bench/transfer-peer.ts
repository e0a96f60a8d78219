// Another node: owns a pool and serves its blocks over TCP, and beside it raw bytes as fast as a socket takes them.
import { createServer, type Socket } from 'node:net';
import { createTransferAgent } from '../kv-transfer/create-agent.js';
import type { KvPoolLayout } from '../native.js';
import { createFilledPool } from './blocks.js';

export interface TransferPeerAddress {
  /** Of the agent's side channel. */
  readonly port: number;
  /** Of the raw stream: a client sends a byte count (uint32 LE) and gets as many bytes. */
  readonly rawPort: number;
}

export const peerEngineId = 'peer';
export const peerCompatibility = 'micro-bench';

/** As large as the pieces that the agent writes at once. */
const rawChunkBytes = 1 << 20;

export async function serveTransfers(layout: KvPoolLayout): Promise<void> {
  const pool = createFilledPool(layout);
  const agent = await createTransferAgent({
    config: { agent: 'tcp', sideChannelHost: '127.0.0.1', sideChannelPort: 0 },
    engineId: peerEngineId,
    pool,
    compatibility: peerCompatibility,
  });
  const held = new Set(Array.from({ length: layout.numBlocks }, (_, id) => id));
  agent.guardReads(() => held);
  const rawServer = createServer({ noDelay: true }, serveRaw);
  rawServer.listen(0, '127.0.0.1', () => {
    const address = rawServer.address();
    const rawPort = typeof address === 'object' && address !== null ? address.port : 0;
    process.send?.({ port: agent.port, rawPort } satisfies TransferPeerAddress);
  });
}

function serveRaw(socket: Socket): void {
  const chunk = Buffer.alloc(rawChunkBytes, 1);
  socket.on('error', () => socket.destroy());
  socket.on('data', (request) => {
    for (let left = request.readUInt32LE(); left > 0; left -= rawChunkBytes) {
      socket.write(left < rawChunkBytes ? chunk.subarray(0, left) : chunk);
    }
  });
}
