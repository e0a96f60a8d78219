// The GPU's model with products through cuBLASLt, here an emulated one: right, captured into graphs, and not used where it has no algorithm.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { NativeModelConfig } from '../../src/native/model-config.js';
import { loadNative } from '../../src/native.js';
import { useEmulatedDevice } from './emulated-device.js';
import { createRandomModel, forwardChunks } from './random-model.js';

const blockSize = 16;
const tokens = Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 90);

/** Logits of 32 tokens at once, then of the others one by one, and of 8 more beside each: the last steps replay a graph. */
async function logitsOf(
  changes: Partial<NativeModelConfig>,
  batchInvariant: boolean,
  dtype: 'bfloat16' | 'float16',
): Promise<readonly Float32Array[]> {
  const random = createRandomModel(changes, 'BF16');
  const { config } = random;
  const limits = { maxTokens: 64, maxRequests: 9, maxPositions: 64 };
  const options = { dtype, kvDtype: dtype, batchInvariant, ...limits };
  const model = await loadNative().loadCudaModel(config, random.tensors, options);
  const { numLayers, numKvHeads, headDim } = config;
  const layout = { numBlocks: 16, numLayers, numKvHeads, blockSize, headDim, dtype };
  const pool = loadNative().createPool(layout, 'device');
  try {
    const own = { tokens, blockTable: [1, 2, 3] };
    const rows = await forwardChunks(model, pool, [{ ...own, begin: 0, end: 32 }]);
    for (let i = 32; i < tokens.length; i += 1) {
      const step = { begin: i, end: i + 1 };
      rows.push((await forwardChunks(model, pool, [{ ...own, ...step }]))[0]!);
      const beside = Array.from({ length: 8 }, (_, j) => ({
        tokens: [j],
        begin: 0,
        end: 1,
        blockTable: [j + 4],
      }));
      rows.push((await forwardChunks(model, pool, [...beside, { ...own, ...step }])).at(-1)!);
    }
    return rows.map((row) => row.slice());
  } finally {
    model.close();
    pool.close();
    random.remove();
  }
}

/** Largest difference by the root mean square of what was expected. */
function distance(received: readonly Float32Array[], expected: readonly Float32Array[]): number {
  const differences = expected.flatMap((row, i) => [...row].map((x, j) => Math.abs(received[i]![j]! - x)));
  const squares = expected.flatMap((row) => [...row].map((x) => x * x));
  const meanSquare = squares.reduce((sum, x) => sum + x, 0) / squares.length;
  return differences.reduce((most, x) => Math.max(most, x), 0) / Math.sqrt(meanSquare);
}

const shape = {
  numHeads: 4,
  numKvHeads: 2,
  headDim: 16,
  hiddenSize: 64,
  intermediateSize: 96,
  vocabSize: 102,
};

// A device that was named has a cuBLASLt of its own, or none; of that one it is not known when it sums as we do.
const isNamed = Boolean(process.env.VLLM_PD_LIBCUDA);
if (useEmulatedDevice()) {
  if (!isNamed) process.env.VLLM_PD_LIBCUBLASLT = process.env.VLLM_PD_LIBCUDA;
  const { whyNoCublasLt } = loadNative().cudaFacts();
  const isThere = whyNoCublasLt === '';
  if (!isThere && isNamed) console.log(`skipped: ${whyNoCublasLt}`);

  for (const dtype of !isThere && isNamed ? [] : (['bfloat16', 'float16'] as const)) {
    test(`--no-batch-invariant computes with cuBLASLt, ${dtype}: as right as our own products, in other bits`, async () => {
      assert.ok(isThere, whyNoCublasLt);
      const own = await logitsOf(shape, true, dtype);
      const theirs = await logitsOf(shape, false, dtype);
      const apart = distance(theirs, own);
      assert.ok(apart < 0.05, `they are ${apart} apart`);
      // Whoever asks for batch invariance gets it wherever cuBLASLt is.
      for (let i = 32; i < own.length; i += 2) assert.equal(own[i + 1], own[i], `row ${i}`);
      if (isNamed) return;
      assert.ok(apart > 0, 'cuBLASLt was not used');
      assert.ok(
        theirs.some((row, i) => i >= 32 && i % 2 === 0 && distance([theirs[i + 1]!], [row]) > 0),
        'products of many rows are summed as those of one',
      );
    });
  }

  test('a product that cuBLASLt has no algorithm for, or that has a bias, is our own', async () => {
    if (isNamed) return;
    for (const changes of [{ vocabSize: 101 }, { attentionBias: true, outputBias: true, mlpBias: true }]) {
      const own = await logitsOf({ ...shape, ...changes }, true, 'float16');
      const theirs = await logitsOf({ ...shape, ...changes }, false, 'float16');
      const apart = distance(theirs, own);
      assert.ok(apart > 0 && apart < 0.05, `they are ${apart} apart`);
    }
  });
}

test.run();
