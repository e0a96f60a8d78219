// The native forward pass: right by a plain reference, and clear about what it does not accept.
import { statSync, truncateSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KvCacheDtype } from '../../src/config.js';
import { VllmPdError } from '../../src/errors.js';
import type { ForwardInput } from '../../src/native/model.js';
import type { NativeModelConfig, NativeWeights, TensorDtype } from '../../src/native/model-config.js';
import { loadNative } from '../../src/native.js';
import { availableIsas, createPoolForIsas, loadModelFor } from './instruction-sets.js';
import {
  createPool,
  createRandom,
  createRandomModel,
  forwardChunks,
  modelConfig,
  type RandomModel,
} from './random-model.js';
import { referenceLogits } from './reference.js';

function randomTokens(count: number, vocabSize: number, seed = 3): number[] {
  const random = createRandom(seed);
  return Array.from({ length: count }, () => Math.floor(((random() + 1) / 2) * vocabSize));
}

/** Blocks in no particular order, as a pool in use hands them out. */
function shuffledTable(numTokens: number, blockSize: number): number[] {
  return Array.from({ length: Math.ceil(numTokens / blockSize) }, (_, i) => i + 1).reverse();
}

function rootMeanSquare(values: Float64Array): number {
  return Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
}

function assertClose(received: Float32Array, expected: Float64Array, what: string, tolerance = 1e-4): void {
  const scale = rootMeanSquare(expected);
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(received[i]! - expected[i]!) / scale;
    assert.ok(
      error < tolerance,
      `${what}, element ${i}: expected ${expected[i]} but received ${received[i]}`,
    );
  }
}

/** The nearest bfloat16, ties to even. */
function toBfloat16(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!;
  const rounded = (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(Uint32Array.of(rounded).buffer)[0]!;
}

/** Instruction sets that multiply K and V in pairs of bfloat16, as they are kept. */
function multipliesPairs(isa: string): boolean {
  return /^(emulated_)?(avx512_bf16|amx)$/.test(isa);
}

async function code(run: () => unknown): Promise<[string, string]> {
  try {
    await run();
  } catch (error) {
    assert.instance(error, VllmPdError);
    return [(error as VllmPdError).code, (error as VllmPdError).message];
  }
  throw new Error('nothing was thrown');
}

async function compareWithReference(
  what: string,
  changes: Partial<NativeModelConfig>,
  { blockSize = 16, numTokens = 150, dtype = 'F32' as TensorDtype, kvDtype = 'float32' as KvCacheDtype } = {},
): Promise<void> {
  const random = createRandomModel(changes, dtype);
  const tokens = randomTokens(numTokens, random.config.vocabSize);
  const roundKv = kvDtype === 'bfloat16' ? toBfloat16 : undefined;
  const widened = referenceLogits(random, tokens, roundKv);
  const inPairs = roundKv ? referenceLogits(random, tokens, roundKv, toBfloat16) : widened;
  // In float32 a K or V may come out on the other side of the middle between two bfloat16, and is rounded there; what
  // multiplies pairs of bfloat16 rounds probabilities, too.
  const tolerance = kvDtype === 'bfloat16' ? 1e-2 : 1e-4;
  for (const isa of await availableIsas(random)) {
    const model = await loadModelFor(isa, random, 2);
    const blockTable = shuffledTable(numTokens, blockSize);
    const pool = createPoolForIsas(random.config, blockTable.length + 1, blockSize, kvDtype);
    const logits = await forwardChunks(model, pool, [{ tokens, begin: 0, end: numTokens, blockTable }]);
    const expected = multipliesPairs(isa) ? inPairs : widened;
    for (let i = 0; i < numTokens; i++) {
      assertClose(logits[i]!, expected[i]!, `${what}, ${isa}, token ${i}`, tolerance);
    }
    model.close();
    pool.close();
  }
  random.remove();
}

test('logits agree with a plain float64 decoder: grouped queries, tied embeddings', () =>
  compareWithReference('plain', {}));

test('logits agree with q/k norm, as in Qwen3', () =>
  compareWithReference('q/k norm', { qkNorm: true, numHeads: 6, numKvHeads: 3 }));

test('logits agree with biases and an untied head, as in Qwen2', () =>
  compareWithReference('bias', { attentionBias: true, tieWordEmbeddings: false }));

test('logits agree with biases on every projection, as in Llama with attention_bias and mlp_bias', () =>
  compareWithReference('every bias', { attentionBias: true, outputBias: true, mlpBias: true }));

test('logits agree where only some dimensions and only some layers are rotated', () =>
  compareWithReference('partial rotation', {
    headDim: 20,
    invFreq: Float32Array.of(1, 0.5, 0.2, 0.1, 0.03),
    noRopeLayers: [1],
    ropeAttentionScaling: 1.2,
    qkNorm: true,
  }));

test('logits agree where no size is a multiple of a register', () =>
  compareWithReference('odd sizes', {
    headDim: 10,
    hiddenSize: 37,
    intermediateSize: 51,
    numHeads: 3,
    numKvHeads: 1,
    ropeAttentionScaling: 1.2,
  }));

test('logits agree with wide heads and every block size', async () => {
  for (const blockSize of [1, 5, 32]) {
    await compareWithReference(
      `block size ${blockSize}`,
      { headDim: 72, numLayers: 1 },
      { blockSize, numTokens: 90 },
    );
  }
});

test('logits agree with sliding windows, in some layers or all', async () => {
  await compareWithReference('windows', { slidingWindows: [37, 0] });
  await compareWithReference('a window of one', { slidingWindows: [1, 1] }, { numTokens: 40 });
  await compareWithReference('windows of a segment', { slidingWindows: [64, 65] });
});

test('logits agree with K and V in bfloat16, for every head size and ratio of heads', async () => {
  for (const [headDim, numHeads, numKvHeads] of [
    [64, 8, 1],
    [80, 3, 3],
    [96, 4, 2],
    [128, 6, 2],
    [10, 5, 1],
  ] as const) {
    const shape = { headDim, numHeads, numKvHeads, numLayers: 1 };
    const what = `head size ${headDim}`;
    await compareWithReference(what, shape, { numTokens: 70, blockSize: 7, kvDtype: 'bfloat16' });
  }
});

test('bfloat16 and half-precision checkpoints are read as what they say', async () => {
  await compareWithReference('BF16', {}, { dtype: 'BF16', numTokens: 20 });
  await compareWithReference('F16', {}, { dtype: 'F16', numTokens: 20 });
});

/** Error of all logits together, as a share of their size. */
async function relativeError(isa: string, random: RandomModel, weights: NativeWeights): Promise<number> {
  const numTokens = 60;
  const tokens = randomTokens(numTokens, random.config.vocabSize);
  const expected = referenceLogits(random, tokens);
  const model = await loadModelFor(isa, random, 2, weights);
  const blockTable = shuffledTable(numTokens, 16);
  const pool = createPoolForIsas(random.config, blockTable.length + 1, 16);
  const logits = await forwardChunks(model, pool, [{ tokens, begin: 0, end: numTokens, blockTable }]);
  model.close();
  pool.close();
  const all = Float64Array.from(expected.flatMap((row) => [...row]));
  const errors = Float64Array.from(expected.flatMap((row, i) => [...row].map((x, j) => logits[i]![j]! - x)));
  return rootMeanSquare(errors) / rootMeanSquare(all);
}

test('bfloat16 and int8 weights come as close as their precision lets them, and no closer', async () => {
  const shapes: Partial<NativeModelConfig>[] = [
    { numHeads: 8, numKvHeads: 2, headDim: 32, hiddenSize: 160, intermediateSize: 200 },
    {
      numHeads: 3,
      numKvHeads: 1,
      headDim: 20,
      hiddenSize: 37,
      intermediateSize: 51,
      tieWordEmbeddings: false,
    },
  ];
  for (const shape of shapes) {
    const random = createRandomModel({ attentionBias: true, ...shape });
    for (const isa of await availableIsas(random)) {
      // A bfloat16 is off by 2^-9 of itself at most, an int8 by 1/254 of the row's largest.
      const bfloat16 = await relativeError(isa, random, { dtype: 'bfloat16', quantization: null });
      assert.ok(bfloat16 > 1e-4 && bfloat16 < 0.015, `${isa}, bfloat16: ${bfloat16}`);
      const int8 = await relativeError(isa, random, { dtype: 'bfloat16', quantization: 'int8' });
      assert.ok(int8 > 1e-3 && int8 < 0.05, `${isa}, int8: ${int8}`);
    }
    random.remove();
  }
});

test('a missing, misshapen or cut tensor is named with what was expected and received', async () => {
  const random = createRandomModel();
  const load = (tensors = random.tensors) => loadNative().loadModel(random.config, tensors, 1);
  const name = 'model.layers.1.mlp.up_proj.weight';

  const [missing, missingMessage] = await code(() => load(random.tensors.filter((t) => t.name !== name)));
  assert.is(missing, 'BAD_FILE');
  assert.match(missingMessage, /up_proj.weight of shape \(72, 48\) but found none/);

  const swapped = random.tensors.map((t) => (t.name === name ? { ...t, shape: [48, 72] } : t));
  const [shape, shapeMessage] = await code(() => load(swapped));
  assert.is(shape, 'BAD_FILE');
  assert.match(shapeMessage, /up_proj.weight to have shape \(72, 48\) but received \(48, 72\)/);

  const short = random.tensors.map((t) => (t.name === name ? { ...t, length: t.length - 4 } : t));
  assert.match((await code(() => load(short)))[1], /up_proj.weight .* has 13820/);

  truncateSync(random.file, statSync(random.file).size - 1);
  const [cut, cutMessage] = await code(() => load());
  assert.is(cut, 'BAD_FILE');
  assert.match(cutMessage, /beyond the \d+ bytes .* cut short/);

  random.remove();
  assert.match((await code(() => load()))[1], /Could not open .*No such file/);
});

test('a model that cannot be is refused before anything is read', async () => {
  const wrong: [Partial<NativeModelConfig>, RegExp][] = [
    [{ numHeads: 0 }, /numHeads but received 0/],
    [{ numHeads: 5 }, /multiple of numKvHeads/],
    [{ headDim: 7, invFreq: new Float32Array(3) }, /even number for headDim/],
    [{ invFreq: new Float32Array(9) }, /1 to 8 elements for invFreq but received 9/],
    [{ rmsNormEps: Number.NaN }, /rmsNormEps/],
    [{ vocabSize: 1.5 }, /vocabSize but received 1.5/],
  ];
  for (const [changes, message] of wrong) {
    const [kind, text] = await code(() => loadNative().loadModel(modelConfig(changes), [], 1));
    assert.is(kind, 'INVALID_ARGUMENT');
    assert.match(text, message);
  }
  assert.match(
    (await code(() => loadNative().loadModel(modelConfig(), [], 0)))[1],
    /numThreads but received 0/,
  );
});

test('inputs out of range are refused with the index at fault, and the model goes on', async () => {
  const random = createRandomModel();
  const model = await loadNative().loadModel(random.config, random.tensors, 2);
  const pool = createPool(random.config, 4, 4);
  const good: ForwardInput = {
    tokenIds: Int32Array.of(1, 2, 3),
    positions: Int32Array.of(0, 1, 2),
    cuSeqlensQ: Int32Array.of(0, 3),
    blockTables: Int32Array.of(1, 2),
    cuBlocks: Int32Array.of(0, 2),
    logitsIndices: Int32Array.of(2),
  };
  const wrong: [Partial<ForwardInput>, RegExp][] = [
    [{ tokenIds: Int32Array.of(1, 101, 3) }, /tokenIds\[1\] to be from 0 to 100 but received 101/],
    [{ tokenIds: Int32Array.of(1, -1, 3) }, /tokenIds\[1\].*received -1/],
    [{ positions: Int32Array.of(0, 1, 8) }, /positions\[2\] of request 0 .* 8 slots .* received 8/],
    [{ positions: Int32Array.of(0, -1, 2) }, /positions\[1\].*received -1/],
    [{ positions: Int32Array.of(0) }, /length of positions to be 3 but received 1/],
    [{ blockTables: Int32Array.of(1, 4) }, /blockTables\[1\] to be from 0 to 3 but received 4/],
    [{ cuSeqlensQ: Int32Array.of(0, 2) }, /last of cuSeqlensQ to be 3 but received 2/],
    [{ cuSeqlensQ: Int32Array.of() }, /length of cuSeqlensQ/],
    [{ cuSeqlensQ: Int32Array.of(0, 5, 3), cuBlocks: Int32Array.of(0, 1, 2) }, /at least its predecessor/],
    [{ cuBlocks: Int32Array.of(0, 1, 2) }, /length of cuBlocks to be 2 but received 3/],
    [{ cuBlocks: Int32Array.of(1, 2) }, /cuBlocks\[0\] to be 0/],
    [{ logitsIndices: Int32Array.of(3) }, /logitsIndices\[0\] to be from 0 to 2 but received 3/],
    [{ tokenIds: [1, 2, 3] as unknown as Int32Array }, /Int32Array for tokenIds/],
  ];
  for (const [changes, message] of wrong) {
    const [kind, text] = await code(() => model.forward(pool, { ...good, ...changes }));
    assert.is(kind, 'INVALID_ARGUMENT');
    assert.match(text, message);
  }
  const other = createPool(modelConfig({ numLayers: 3 }), 4, 4);
  assert.match(
    (await code(() => model.forward(other, good)))[1],
    /Expected a KV pool for 2 layers.*3 layers/,
  );
  other.close();
  assert.match((await code(() => model.forward(other, good)))[1], /pool is closed/);
  assert.match((await code(() => model.forward({ ...pool }, good)))[1], /made by createPool/);

  assert.is((await model.forward(pool, good)).length, 101);
  assert.is((await model.forward(pool, { ...good, logitsIndices: new Int32Array() })).length, 0);
  const none = new Int32Array();
  const zero = Int32Array.of(0);
  const empty = { tokenIds: none, positions: none, blockTables: none, logitsIndices: none };
  assert.is((await model.forward(pool, { ...empty, cuSeqlensQ: zero, cuBlocks: zero })).length, 0);
  model.close();
  pool.close();
  random.remove();
});

test('the event loop stays free during a forward pass, and a second one at the same time is refused', async () => {
  const random = createRandomModel({ hiddenSize: 256, intermediateSize: 1024, numLayers: 4 });
  const model = await loadNative().loadModel(random.config, random.tensors, 1);
  const numTokens = 1024;
  const blockTable = shuffledTable(numTokens, 16);
  const pool = createPool(random.config, blockTable.length + 1, 16);
  const chunk = { tokens: randomTokens(numTokens, 101), begin: 0, end: numTokens, blockTable };
  const started = performance.now();
  let running = true;
  const first = forwardChunks(model, pool, [chunk]).finally(() => {
    running = false;
  });
  assert.match((await code(() => forwardChunks(model, pool, [chunk])))[1], /one forward pass at a time/);
  let ticks = 0;
  while (running) {
    await new Promise((resolve) => setImmediate(resolve));
    ticks++;
  }
  await first;
  assert.ok(ticks > 20, `only ${ticks} turns of the event loop in ${performance.now() - started} ms`);
  model.close();
  pool.close();
  random.remove();
});

test('closing model and pool during a forward pass lets it end, and later calls are refused', async () => {
  const random = createRandomModel({ numLayers: 4 });
  const model = await loadNative().loadModel(random.config, random.tensors, 2);
  const tokens = randomTokens(500, 101);
  const blockTable = shuffledTable(500, 16);
  const chunk = { tokens, begin: 0, end: 500, blockTable };
  const calm = createPool(random.config, 40, 16);
  const expected = await forwardChunks(model, calm, [chunk]);
  const pool = createPool(random.config, 40, 16);
  const running = forwardChunks(model, pool, [chunk]);
  model.close();
  pool.close();
  assert.equal(await running, expected);
  model.close();
  assert.match((await code(() => forwardChunks(model, calm, [chunk])))[1], /model is closed/);
  calm.close();
  random.remove();
});

test('an instruction set that is not to be had is refused with those that are', async () => {
  const random = createRandomModel();
  const [kind, message] = await code(() => loadModelFor('mmx', random, 1));
  assert.is(kind, 'INVALID_ARGUMENT');
  assert.match(message, /VLLM_PD_ISA .*portable.* but received 'mmx'/);
  random.remove();
});

test.run();
