// The layout that the peer pool's test and the process it starts agree on.
import type { KvPoolLayout } from '../../src/native/kv-pool-layout.js';

export const ownerLayout: KvPoolLayout = {
  numBlocks: 16,
  numLayers: 4,
  numKvHeads: 2,
  blockSize: 16,
  headDim: 64,
  dtype: 'float32',
};
