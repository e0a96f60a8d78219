// The shape of a KV pool.
import type { KvCacheDtype } from '../config.js';

/** `(num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim)` of `dtype`, one region. */
export interface KvPoolLayout {
  readonly numBlocks: number;
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly blockSize: number;
  readonly headDim: number;
  readonly dtype: KvCacheDtype;
}
