// Verified reads of a mapped pool against plain memcpy of as many bytes.

import type { NativeModelConfig } from '../native/model-config.js';
import { loadNative } from '../native.js';
import { blockLayout, contiguousIds, createFilledPool, fragmentedIds, hashOfBlock } from './blocks.js';
import { memoryCopy, withProbeLimit } from './probe-work.js';
import type { Contest, RowGroup, RowPlan } from './row-plan.js';

const blockCounts = [1, 16, 64, 256, 1024] as const;

/** `threads`: of the native module's transfers. */
export function shmGroups(model: NativeModelConfig, threads: number): RowGroup[] {
  const contiguous = blockCounts.map((count) =>
    shmRow(model, threads, `shm ${count} block${count === 1 ? '' : 's'}`, contiguousIds(count), 0.9),
  );
  const fragmented = blockCounts
    .filter((count) => count > 1)
    .map((count) => shmRow(model, threads, `shm ${count} blocks, fragmented`, fragmentedIds(count), 0.85));
  return [{ family: 'transfer', rows: [...contiguous, ...fragmented] }];
}

function shmRow(
  model: NativeModelConfig,
  threads: number,
  name: string,
  remoteIds: readonly number[],
  askedRatio: number,
): RowPlan {
  return {
    // One block takes about as long as asking for it.
    ...(remoteIds.length > 1 && { asked: { kind: 'ratio', atLeast: askedRatio } }),
    name,
    threads,
    unit: 'GB/s',
    limit: 'memcpy',
    prepare: () => prepareRead(model, threads, remoteIds),
  };
}

/** The pool is this process's own, mapped once more as a peer would. */
function prepareRead(model: NativeModelConfig, threads: number, remoteIds: readonly number[]): Contest {
  const layout = blockLayout(model, remoteIds.length);
  const owner = createFilledPool(layout);
  const reader = createFilledPool(layout);
  const peer = loadNative().openPeerPool(process.pid, owner.fd, layout);
  const hashes = remoteIds.map(hashOfBlock);
  const localIds = contiguousIds(remoteIds.length);
  const numBytes = remoteIds.length * owner.blockBytes;
  const subject = {
    amount: numBytes / 1e9,
    run: async () => {
      const valid = await peer.read(reader, remoteIds, localIds, hashes);
      if (valid.includes(0)) throw new Error('Expected every block to arrive but one did not');
    },
  };
  return withProbeLimit(subject, memoryCopy(threads, numBytes), () => {
    peer.close();
    reader.close();
    owner.close();
  });
}
