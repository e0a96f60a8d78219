// How many blocks a node's pool gets.
import type { CacheConfig, EngineConfig } from '../config.js';
import { VllmPdError } from '../errors.js';
import { createLogger } from '../log.js';
import { blockBytesOf } from '../native/arguments.js';
import type { KvPoolLayout } from '../native/kv-pool-layout.js';
import { loadNative } from '../native.js';

const log = createLogger('engine');

/** No sequence needs more than this many blocks of ids; JavaScript's side of a pool grows with them. */
const maxBlocks = 2 ** 24;

/**
 * The cache as configured; on a GPU, where nobody said how many blocks, as many as fit its share of the memory beside
 * what this process already holds there. The model must be loaded. Throws INVALID_ARGUMENT where not two blocks fit.
 */
export function sizedCache(
  { backend, cache, cuda }: EngineConfig,
  layout: Omit<KvPoolLayout, 'numBlocks'>,
): CacheConfig {
  if (backend !== 'cuda' || cuda.gpuMemoryUtilization === null) return cache;
  const { free, own, total } = loadNative().cudaMemory();
  const budget = Math.min(free, Math.floor(total * cuda.gpuMemoryUtilization) - own);
  const blockBytes = blockBytesOf({ ...layout, numBlocks: 1 });
  const numBlocks = Math.min(maxBlocks, Math.floor(budget / blockBytes));
  if (numBlocks < 2) {
    throw new VllmPdError(
      'INVALID_ARGUMENT',
      `Expected room for two KV blocks of ${blockBytes} bytes in ${cuda.gpuMemoryUtilization} of the GPU's ${total} bytes, but ${own} are taken by this node and ${free} are free.`,
      {
        param: 'gpu_memory_utilization',
        suggestions: ['Raise --gpu-memory-utilization, or give --num-blocks.'],
      },
    );
  }
  log.info({ numBlocks, blockBytes, free, own, total }, 'the pool is sized by the memory of the GPU');
  return { ...cache, numBlocks };
}
