// Verified reads of a mapped pool against plain memcpy of as many bytes.
//
// What a node reads was written by another process's cores, into blocks that hold something of long ago: neither lies in
// the caches of the threads that copy. So rounds go through pools larger than caches, and memcpy through as large buffers.
// The same megabyte again and again would stay with each of memcpy's threads, and be compared with what no read finds.
// Both are called from JavaScript, and timed until it knows that the bytes are there.

import { blockBytesOf } from '../native/arguments.js';
import type { NativeModelConfig } from '../native/model-config.js';
import { loadNative } from '../native.js';
import { blockLayout, contiguousIds, createFilledPool, fragmentedIds, hashOfBlock } from './blocks.js';
import { memoryCopy, withProbeLimit } from './probe-work.js';
import type { Contest, RowGroup, RowPlan } from './row-plan.js';

const blockCounts = [1, 16, 64, 256, 1024] as const;
const minPoolBytes = 128 * 2 ** 20;

/** `threads`: of the native module's transfers. */
export function shmGroups(model: NativeModelConfig, threads: number): RowGroup[] {
  const contiguous = blockCounts.map((count) =>
    shmRow(model, threads, `shm ${count} block${count === 1 ? '' : 's'}`, count, contiguousIds, 0.9),
  );
  const fragmented = blockCounts
    .filter((count) => count > 1)
    .map((count) => shmRow(model, threads, `shm ${count} blocks, fragmented`, count, fragmentedIds, 0.85));
  return [{ family: 'transfer', rows: [...contiguous, ...fragmented] }];
}

function shmRow(
  model: NativeModelConfig,
  threads: number,
  name: string,
  count: number,
  order: BlockOrder,
  askedRatio: number,
): RowPlan {
  return {
    // One block takes about as long as asking for it.
    ...(count > 1 && { asked: { kind: 'ratio', atLeast: askedRatio } }),
    name,
    threads,
    unit: 'GB/s',
    limit: 'memcpy',
    prepare: () => prepareRead(model, threads, count, order),
  };
}

/** All of a pool's ids, in the order in which they are read. */
type BlockOrder = (numBlocks: number) => readonly number[];

/** The pool is this process's own, mapped once more as a peer would. */
function prepareRead(model: NativeModelConfig, threads: number, count: number, order: BlockOrder): Contest {
  const blockBytes = blockBytesOf(blockLayout(model, 1));
  const numPlaces = Math.ceil(minPoolBytes / (count * blockBytes));
  const layout = blockLayout(model, count * numPlaces);
  const owner = createFilledPool(layout);
  const reader = loadNative().createPool(layout);
  const peer = loadNative().openPeerPool(process.pid, owner.fd, layout);
  const remoteIds = order(layout.numBlocks);
  const localIds = contiguousIds(layout.numBlocks);
  const reads = Array.from({ length: numPlaces }, (_, place) => {
    const inPlace = (ids: readonly number[]) => ids.slice(place * count, (place + 1) * count);
    const remote = inPlace(remoteIds);
    return { remote, local: inPlace(localIds), hashes: remote.map(hashOfBlock) };
  });
  let round = 0;
  const numBytes = count * blockBytes;
  const subject = {
    amount: numBytes / 1e9,
    run: async () => {
      const { remote, local, hashes } = reads[round % numPlaces]!;
      round += 1;
      const valid = await peer.read(reader, remote, local, hashes);
      if (valid.includes(0)) throw new Error('Expected every block to arrive but one did not');
    },
  };
  return withProbeLimit(subject, memoryCopy(threads, numBytes, numPlaces), () => {
    peer.close();
    reader.close();
    owner.close();
  });
}
