// KV of one sequence between the pool's blocks and contiguous tensors.
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { KvPool } from '../native/kv-pool.js';
import type { KvPoolLayout } from '../native/kv-pool-layout.js';

/** Copying gives way to the event loop after this long, in ms. */
const sliceMs = 4;

/**
 * Positions [0, numTokens) of the sequence whose block table this is, as
 * (num_layers, 2, num_kv_heads, numTokens, head_dim).
 */
export async function gatherKv(
  pool: KvPool,
  blockTable: Int32Array,
  numTokens: number,
): Promise<Float32Array> {
  const kv = new Float32Array(numTokens * floatsPerToken(pool.layout));
  await eachBlock(pool, blockTable, 0, numTokens, (block, slot, position, count) => {
    eachPlane(pool.layout, numTokens, slot, position, (inBlock, inKv, headDim) => {
      kv.set(block.subarray(inBlock, inBlock + count * headDim), inKv);
    });
  });
  return kv;
}

/** The inverse for positions [start, start + numTokens): `kv` is (num_layers, 2, num_kv_heads, numTokens, head_dim). */
export async function scatterKv(
  pool: KvPool,
  blockTable: Int32Array,
  start: number,
  numTokens: number,
  kv: Float32Array,
): Promise<void> {
  await eachBlock(pool, blockTable, start, numTokens, (block, slot, position, count) => {
    eachPlane(pool.layout, numTokens, slot, position - start, (inBlock, inKv, headDim) => {
      block.set(kv.subarray(inKv, inKv + count * headDim), inBlock);
    });
  });
}

function floatsPerToken({ numLayers, numKvHeads, headDim }: KvPoolLayout): number {
  return numLayers * 2 * numKvHeads * headDim;
}

/** `visit` gets a block's floats, the first slot and position in it, and how many of its slots are meant. */
async function eachBlock(
  pool: KvPool,
  blockTable: Int32Array,
  start: number,
  numTokens: number,
  visit: (block: Float32Array, slot: number, position: number, count: number) => void,
): Promise<void> {
  const { blockSize } = pool.layout;
  const end = start + numTokens;
  let sliceEnd = performance.now() + sliceMs;
  for (let position = start; position < end; ) {
    const slot = position % blockSize;
    const count = Math.min(blockSize - slot, end - position);
    const bytes = pool.block(blockTable[Math.floor(position / blockSize)]!);
    visit(new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4), slot, position, count);
    position += count;
    if (performance.now() > sliceEnd) {
      await nextTurn();
      sliceEnd = performance.now() + sliceMs;
    }
  }
}

/** `visit` gets where the slot and the token lie, in floats, for each layer, K and V, and head. */
function eachPlane(
  { numLayers, numKvHeads, blockSize, headDim }: KvPoolLayout,
  numTokens: number,
  slot: number,
  token: number,
  visit: (inBlock: number, inKv: number, headDim: number) => void,
): void {
  const numPlanes = numLayers * 2 * numKvHeads;
  for (let plane = 0; plane < numPlanes; plane++) {
    visit((plane * blockSize + slot) * headDim, (plane * numTokens + token) * headDim, headDim);
  }
}
