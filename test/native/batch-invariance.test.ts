// A token's K, V and logits have the same bits whatever else is in the batch, however its prompt was chunked, whatever the threads.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KvCacheDtype } from '../../src/config.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import type { NativeModel } from '../../src/native/model.js';
import type { NativeModelConfig, NativeWeights } from '../../src/native/model-config.js';
import {
  availableIsas,
  canRun,
  createPoolForIsas as createPool,
  emulated,
  isEmulated,
  loadModelFor,
} from './instruction-sets.js';
import {
  type Chunk,
  createRandom,
  createRandomModel,
  forwardChunks,
  type RandomModel,
} from './random-model.js';

const blockSize = 16;
const numTokens = 333;
const blocksPerSequence = Math.ceil(numTokens / blockSize);

function sequence(seed: number, firstBlock: number): Omit<Chunk, 'begin' | 'end'> {
  const random = createRandom(seed);
  return {
    tokens: Array.from({ length: numTokens }, () => Math.floor(((random() + 1) / 2) * 101)),
    blockTable: Array.from(
      { length: blocksPerSequence },
      (_, i) => firstBlock + ((i * 5) % blocksPerSequence),
    ),
  };
}

/** What a way of computing the sequence left behind: logits of all tokens, and the sequence's blocks. */
interface Trace {
  readonly logits: readonly Buffer[];
  readonly blocks: readonly Buffer[];
}

function bytes(array: Float32Array | Uint8Array): Buffer {
  return Buffer.from(Buffer.from(array.buffer, array.byteOffset, array.byteLength));
}

function traceOf(pool: KvPool, blockTable: readonly number[], logits: readonly Float32Array[]): Trace {
  return { logits: logits.map(bytes), blocks: blockTable.map((id) => bytes(pool.block(id))) };
}

function assertSame(received: Trace, expected: Trace, what: string): void {
  for (let i = 0; i < numTokens; i++) {
    assert.ok(received.logits[i]!.equals(expected.logits[i]!), `${what}: logits of token ${i} differ`);
  }
  for (let i = 0; i < blocksPerSequence; i++) {
    assert.ok(received.blocks[i]!.equals(expected.blocks[i]!), `${what}: block ${i} differs`);
  }
}

async function inChunks(
  model: NativeModel,
  sizes: readonly number[],
  dtype: KvCacheDtype = 'float32',
): Promise<Trace> {
  const pool = createPool(model.config, blocksPerSequence + 1, blockSize, dtype);
  const own = sequence(1, 1);
  const logits: Float32Array[] = [];
  for (let begin = 0, i = 0; begin < numTokens; i++) {
    const end = Math.min(numTokens, begin + sizes[i % sizes.length]!);
    logits.push(...(await forwardChunks(model, pool, [{ ...own, begin, end }])));
    begin = end;
  }
  const trace = traceOf(pool, own.blockTable, logits);
  pool.close();
  return trace;
}

/** The sequence between two others that go at other speeds, in stale blocks full of NaN. */
async function amongOthers(
  model: NativeModel,
  sizes: readonly number[],
  dtype: KvCacheDtype,
): Promise<Trace> {
  const pool = createPool(model.config, 3 * blocksPerSequence + 1, blockSize, dtype);
  for (let id = 0; id < pool.layout.numBlocks; id++) pool.block(id).fill(0xff);
  const before = sequence(2, blocksPerSequence + 1);
  const own = sequence(1, 1);
  const after = sequence(3, 2 * blocksPerSequence + 1);
  const logits: Float32Array[] = [];
  for (let begin = 0, step = 0; begin < numTokens; step++) {
    const end = Math.min(numTokens, begin + sizes[step % sizes.length]!);
    const others = Math.min(numTokens, step * 9);
    const rows = await forwardChunks(model, pool, [
      { ...before, begin: others, end: Math.min(numTokens, others + 9) },
      { ...own, begin, end },
      { ...after, begin: Math.min(step, numTokens), end: Math.min(step + 1, numTokens) },
    ]);
    const first = Math.min(numTokens, others + 9) - others;
    logits.push(...rows.slice(first, first + end - begin));
    begin = end;
  }
  // Slots behind the last token were never written.
  const slotBytes = model.config.headDim * (dtype === 'bfloat16' ? 2 : 4);
  const used = (numTokens % blockSize) * slotBytes;
  const last = pool.block(own.blockTable.at(-1)!);
  const rowBytes = blockSize * slotBytes;
  for (let row = 0; row < last.length; row += rowBytes) last.fill(0, row + used, row + rowBytes);
  const trace = traceOf(pool, own.blockTable, logits);
  pool.close();
  return trace;
}

const shapes: Record<string, Partial<NativeModelConfig>> = {
  'grouped queries': { numHeads: 8, numKvHeads: 2, headDim: 32, hiddenSize: 160, intermediateSize: 200 },
  // The embedded model's heads: the usual sizes have loops of their own.
  'heads of 64': { numHeads: 8, numKvHeads: 2, headDim: 64, hiddenSize: 96, intermediateSize: 128 },
  'heads of 128': { numHeads: 6, numKvHeads: 2, headDim: 128, hiddenSize: 96, intermediateSize: 128 },
  'odd sizes': {
    numHeads: 3,
    numKvHeads: 1,
    headDim: 20,
    hiddenSize: 37,
    intermediateSize: 51,
    qkNorm: true,
    outputBias: true,
    mlpBias: true,
    invFreq: Float32Array.of(1, 0.1, 0.01),
    noRopeLayers: [1],
  },
  'sliding windows': { numHeads: 4, numKvHeads: 2, headDim: 16, slidingWindows: [70, 0] },
};

type Types = NativeWeights & { readonly kv: KvCacheDtype };
/** Weights and KV of every type; what matters is each of both, not each with each. */
const types: readonly Types[] = [
  { dtype: 'float32', quantization: null, kv: 'float32' },
  { dtype: 'float32', quantization: null, kv: 'bfloat16' },
  { dtype: 'bfloat16', quantization: null, kv: 'bfloat16' },
  { dtype: 'bfloat16', quantization: 'int8', kv: 'bfloat16' },
];

// Emulation takes many times as long as AVX2 by itself, and kernel-check.cc has all sizes: here it computes what an instruction set
// has code of its own for, in the usual sizes and in odd ones.
const emulatedTypes: Readonly<Record<string, readonly Types[]>> = {
  emulated_avx512: types,
  emulated_avx512_vnni: types.slice(3),
  emulated_avx512_bf16: types.slice(2, 3),
  emulated_amx: types.slice(2),
};
const emulatedShapes = ['heads of 64', 'odd sizes'];

async function assertInvariant(isa: string, random: RandomModel, { kv, ...weights }: Types): Promise<void> {
  const what = `${isa}, ${weights.quantization ?? weights.dtype}, KV in ${kv}`;
  const one = await loadModelFor(isa, random, 1, weights);
  const expected = await inChunks(one, [numTokens], kv);
  assertSame(await inChunks(one, [1], kv), expected, `${what}, token by token`);
  assertSame(await inChunks(one, [7, 1, 13, 64, 65], kv), expected, `${what}, odd chunks`);
  assertSame(await amongOthers(one, [5, 1, 100, 17], kv), expected, `${what}, among others`);
  one.close();
  for (const numThreads of isEmulated(isa) ? [3] : [2, 3]) {
    const model = await loadModelFor(isa, random, numThreads, weights);
    const threads = `${what}, ${numThreads} threads`;
    assertSame(await inChunks(model, [numTokens], kv), expected, threads);
    assertSame(await amongOthers(model, [31, 2], kv), expected, `${threads}, among others`);
    model.close();
  }
}

for (const [name, shape] of Object.entries(shapes)) {
  test(`${name}: every chunking, every company and every number of threads gives the same bits`, async () => {
    const random = createRandomModel({ numLayers: 2, attentionBias: true, ...shape });
    for (const isa of await availableIsas(random)) {
      if (isEmulated(isa) && !emulatedShapes.includes(name)) continue;
      for (const type of emulatedTypes[isa] ?? types) await assertInvariant(isa, random, type);
    }
    random.remove();
  });
}

/** Head sizes and groups that decoding has loops of its own for, and those that it has not. */
const longShapes: readonly (readonly [Partial<NativeModelConfig>, KvCacheDtype])[] = [
  [{ numHeads: 4, numKvHeads: 1 }, 'bfloat16'],
  [{ numHeads: 4, numKvHeads: 1, headDim: 64 }, 'float32'],
  [{ numHeads: 3, numKvHeads: 3, headDim: 64 }, 'bfloat16'],
  [{ numHeads: 5, numKvHeads: 1, headDim: 64 }, 'bfloat16'],
  [{ numHeads: 4, numKvHeads: 1, headDim: 128 }, 'bfloat16'],
  [{ numHeads: 8, numKvHeads: 1, headDim: 128 }, 'bfloat16'],
  [{ numHeads: 9, numKvHeads: 1, headDim: 128 }, 'float32'],
];

for (const [shape, dtype] of longShapes) {
  const { numHeads, numKvHeads, headDim = 16 } = shape;
  test(`${numHeads} heads over ${numKvHeads} of ${headDim}, KV in ${dtype}: a long sequence that threads share gives the bits of one thread and of its prefill`, () =>
    assertLong(shape, dtype));
}

async function assertLong(shape: Partial<NativeModelConfig>, dtype: KvCacheDtype): Promise<void> {
  const isEmulatedLong = shape.headDim === 64 && shape.numHeads! < 5;
  // Two spans of 512 keys and a piece of a third.
  const numLong = 1100;
  const random = createRandomModel({ numLayers: 2, slidingWindows: [0, 700], ...shape });
  const tokens = Array.from({ length: numLong }, (_, i) => (i * 31 + (i >> 3)) % 101);
  const blockTable = Array.from({ length: Math.ceil(numLong / blockSize) }, (_, i) => i + 1).reverse();
  const lastLogits = async (isa: string, numThreads: number, ends: readonly number[]) => {
    const model = await loadModelFor(isa, random, numThreads);
    const pool = createPool(model.config, blockTable.length + 1, blockSize, dtype);
    const logits: Float32Array[] = [];
    for (const [i, end] of ends.entries()) {
      const chunk = { tokens, blockTable, begin: ends[i - 1] ?? 0, end };
      logits.push(...(await forwardChunks(model, pool, [chunk])));
    }
    model.close();
    pool.close();
    return logits.slice(-3).map(bytes);
  };
  for (const isa of await availableIsas(random)) {
    if (isEmulated(isa) && !isEmulatedLong) continue;
    const expected = await lastLogits(isa, 1, [numLong]);
    const decoded = [511, 512, 1024, numLong - 3, numLong - 2, numLong - 1, numLong];
    for (const numThreads of isEmulated(isa) ? [3] : [1, 3]) {
      const what = `${isa}, ${numThreads} threads`;
      assert.equal(await lastLogits(isa, numThreads, decoded), expected, `${what}, decoded`);
      assert.equal(await lastLogits(isa, numThreads, [1090, numLong]), expected, `${what}, ten at once`);
    }
  }
  random.remove();
}

test('avx2 and avx512 give the same bits, so hosts of both kinds may share KV', async () => {
  const random = createRandomModel({ numHeads: 6, numKvHeads: 2, headDim: 24, hiddenSize: 100 });
  const isas = (await availableIsas(random)).filter((isa) => /^(avx2|(emulated_)?avx512)$/.test(isa));
  if (isas.length < 2) return console.log('skipped: this machine neither has AVX-512 nor emulates it');
  const [narrow, wide] = await Promise.all(isas.map((isa) => loadModelFor(isa, random, 1)));
  assertSame(await inChunks(narrow!, [50]), await inChunks(wide!, [50]), isas.join(' and '));
  narrow!.close();
  wide!.close();
  random.remove();
});

// What pairs of bfloat16 round to is not compared: chips need not add them in the order of the emulation.
for (const isa of ['avx512', 'avx512_vnni']) {
  test(`the emulation of ${isa} gives the bits of the chip`, async () => {
    const random = createRandomModel({ numHeads: 6, numKvHeads: 2, headDim: 64, hiddenSize: 100 });
    if ((await canRun(isa, random)) && (await canRun(emulated(isa), random))) {
      for (const type of types) {
        const models = [
          await loadModelFor(isa, random, 1, type),
          await loadModelFor(emulated(isa), random, 1, type),
        ];
        for (const kv of ['float32', 'bfloat16'] as const) {
          const [own, other] = [
            await inChunks(models[0]!, [50, 1], kv),
            await inChunks(models[1]!, [50, 1], kv),
          ];
          assertSame(own, other, `${type.quantization ?? type.dtype}, KV in ${kv}`);
        }
        for (const model of models) model.close();
      }
    } else {
      console.log(`skipped: this machine has no ${isa}, or emulates nothing`);
    }
    random.remove();
  });
}

test('the comparison has teeth: one changed value in a cached block changes later logits', async () => {
  const random = createRandomModel();
  const isa = (await availableIsas(random))[0]!;
  const model = await loadModelFor(isa, random, 1);
  const pool = createPool(model.config, blocksPerSequence + 1, blockSize);
  const own = sequence(1, 1);
  await forwardChunks(model, pool, [{ ...own, begin: 0, end: numTokens - 1 }]);
  const last = { ...own, begin: numTokens - 1, end: numTokens };
  const [untouched] = await forwardChunks(model, pool, [last]);
  const block = pool.block(own.blockTable[3]!);
  new Float32Array(block.buffer)[0]! += 0.5;
  const [touched] = await forwardChunks(model, pool, [last]);
  assert.not.ok(bytes(touched!).equals(bytes(untouched!)));
  model.close();
  pool.close();
  random.remove();
});

test.run();
