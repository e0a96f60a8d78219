// Reading a peer's blocks over its side channel: the owner verifies and sends, this end copies in.
import type { KvPool } from '../native.js';
import type { PullSpec } from '../outputs.js';
import type { ReadResult } from './agent.js';
import { decodeBlocks, encodeRead, maxBlocksPerChunk } from './messages.js';
import type { PeerConnection } from './peer-connection.js';

/** Chunks asked for ahead, so that the owner copies while the network carries. */
const numChunksAhead = 3;

/** `onBytes` hears of every chunk that arrived. When this settles, nothing writes into `into` any more. */
export async function readOverTcp(
  connection: PeerConnection,
  pull: PullSpec,
  into: KvPool,
  onBytes: (numBytes: number) => void,
): Promise<ReadResult> {
  const numBlocks = pull.remoteBlockIds.length;
  const chunkBlocks = maxBlocksPerChunk(into.blockBytes);
  const valid = new Uint8Array(numBlocks);
  let numBytes = 0;
  let next = 0;

  const readChunks = async () => {
    while (next < numBlocks) {
      const first = next;
      const end = Math.min(numBlocks, first + chunkBlocks);
      next = end;
      const blockIds = pull.remoteBlockIds.slice(first, end);
      const hashes = pull.blockHashes.slice(first, end);
      const body = await connection.request(
        'read',
        (seq) => encodeRead({ seq, requestId: pull.remote.requestId, blockIds, hashes }),
        'blocks',
      );
      const chunk = decodeBlocks(body, end - first, into.blockBytes);
      onBytes(chunk.data.length);
      numBytes += chunk.data.length;
      valid.set(chunk.valid, first);
      const arrived = pull.localBlockIds.slice(first, end).filter((_, i) => chunk.valid[i] === 1);
      if (arrived.length > 0) into.copyIn(arrived, chunk.data);
    }
  };

  // All of them, also after one has failed: a chunk that is still under way would write later.
  const outcomes = await Promise.allSettled(Array.from({ length: numChunksAhead }, readChunks));
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  return { valid, numBytes };
}
