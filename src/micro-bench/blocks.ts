// KV blocks to transfer: pools of the model's shape whose blocks are published, and orders to read them in.
import { createHash } from 'node:crypto';
import type { KvPool } from '../native/kv-pool.js';
import type { KvPoolLayout } from '../native/kv-pool-layout.js';
import type { NativeModelConfig } from '../native/model-config.js';
import { loadNative } from '../native.js';

/** K and V as this machine keeps them by default. */
export function blockLayout(model: NativeModelConfig, numBlocks: number): KvPoolLayout {
  const { numLayers, numKvHeads, headDim } = model;
  return { numBlocks, numLayers, numKvHeads, blockSize: 16, headDim, dtype: loadNative().defaultDtype };
}

export function hashOfBlock(blockId: number): string {
  return createHash('sha256').update(`block ${blockId}`).digest('hex');
}

/** All blocks written once, so that their pages are there, and published under `hashOfBlock`. */
export function createFilledPool(layout: KvPoolLayout): KvPool {
  const pool = loadNative().createPool(layout);
  for (let blockId = 0; blockId < layout.numBlocks; blockId += 1) {
    pool.block(blockId).fill(1 + (blockId % 200));
    pool.publish(blockId, hashOfBlock(blockId));
  }
  return pool;
}

/** 0, 1, 2, … */
export function contiguousIds(count: number): readonly number[] {
  return Array.from({ length: count }, (_, i) => i);
}

/** The same ids in an order in which no two neighbours are adjacent (from four on). */
export function fragmentedIds(count: number): readonly number[] {
  const stride = Array.from({ length: count }, (_, i) => Math.floor(count * 0.38) + 2 + i).find(
    (candidate) => greatestCommonDivisor(candidate, count) === 1,
  );
  return Array.from({ length: count }, (_, i) => (i * (stride ?? 1)) % count);
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
