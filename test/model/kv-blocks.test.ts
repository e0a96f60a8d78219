// KV between pool blocks and contiguous tensors: every element at its place, blocks in any order, parts of blocks too.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { gatherKv, scatterKv } from '../../src/model/kv-blocks.js';
import { loadNative } from '../../src/native.js';
import { nativeIsMissing } from './greedy-answers.js';

const layout = {
  numBlocks: 8,
  numLayers: 2,
  numKvHeads: 3,
  blockSize: 4,
  headDim: 2,
  dtype: 'float32',
} as const;
const blockTable = Int32Array.of(5, 2, 7);
const numPlanes = 2 * 2 * 3;

/** Tells plane, position and element apart. */
const valueAt = (plane: number, position: number, element: number) => plane * 1000 + position * 10 + element;

/** (num_layers, 2, num_kv_heads, count, head_dim) for positions [start, start + count) */
function expected(start: number, count: number): Float32Array {
  const values: number[] = [];
  for (let plane = 0; plane < numPlanes; plane++) {
    for (let position = start; position < start + count; position++) {
      for (let element = 0; element < layout.headDim; element++) {
        values.push(valueAt(plane, position, element));
      }
    }
  }
  return Float32Array.from(values);
}

test('what is scattered in parts lies at its place and is gathered as a whole', async () => {
  if (nativeIsMissing()) return;
  const pool = loadNative().createPool(layout);
  try {
    for (const [start, count] of [
      [0, 3],
      [3, 1],
      [4, 7],
    ] as const) {
      await scatterKv(pool, blockTable, start, count, expected(start, count));
    }
    const block = new Float32Array(pool.block(7).slice().buffer);
    // Position 9 is slot 1 of the third block; plane 4 is layer 0, V, head 1.
    const at = (4 * layout.blockSize + 1) * layout.headDim;
    assert.equal([...block.subarray(at, at + 2)], [valueAt(4, 9, 0), valueAt(4, 9, 1)]);
    for (const numTokens of [0, 1, 4, 6, 11]) {
      assert.equal(await gatherKv(pool, blockTable, numTokens), expected(0, numTokens));
    }
    assert.ok(
      [0, 1, 3, 4, 6].every((id) => pool.block(id).every((byte) => byte === 0)),
      'no other block is touched',
    );
  } finally {
    pool.close();
  }
});

test.run();
