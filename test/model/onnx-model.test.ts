// The Model interface on ONNX Runtime: KV kept or gathered, chunked or not, alone or in a batch: the same bits.
import { readdirSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Model } from '../../src/model/model.js';
import { loadModelFolder } from '../../src/model/model-folder.js';
import { exportOnnx } from '../../src/model/onnx-export.js';
import { OnnxGraph } from '../../src/model/onnx-graph.js';
import { loadOnnxModel } from '../../src/model/onnx-model.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import type { ForwardInput } from '../../src/native/model.js';
import { nativeIsMissing, withPool } from './greedy-answers.js';
import { createRandom, errorOf, withFolder, withTinyModel } from './model-folders.js';
import { chunkInput, forwardTokens } from './onnx-forward.js';

const limits = { vocabSize: 4360, maxPositionEmbeddings: 32_768, eosTokenIds: [] };
const random = createRandom(11);
const prompt = Array.from({ length: 200 }, () => Math.floor(random() * 4000));

/** The tiny model with two threads; gone behind the body. */
function withOnnxModel<T>(use: (model: Model, folder: string) => Promise<T>): Promise<T> {
  return withTinyModel(async (folder) => {
    await exportOnnx(folder);
    const model = await loadOnnxModel(folder, limits, 2);
    try {
      return await use(model, folder);
    } finally {
      model.close();
    }
  });
}

function poolBytes(pool: KvPool): Uint8Array {
  return Buffer.concat(Array.from({ length: pool.layout.numBlocks }, (_, id) => pool.block(id)));
}

test('KV and logits are the same bits however a prompt is chunked', async () => {
  if (nativeIsMissing()) return;
  await withOnnxModel(async (model) => {
    const run = (chunks: readonly number[]) =>
      withPool(model, prompt.length, async (pool) => ({
        logits: await forwardTokens(model, pool, prompt, chunks),
        kv: poolBytes(pool),
      }));
    const whole = await run([200]);
    for (const chunks of [
      [100, 100],
      [199, 1],
      [33, 65, 97, 5],
      [1, 1, 1, 197],
      [150, 1, 1, 48],
      [7, 193],
    ]) {
      const { logits, kv } = await run(chunks);
      assert.equal(logits, whole.logits, `logits of ${chunks}`);
      assert.equal(kv, whole.kv, `KV of ${chunks}`);
    }
  });
});

test('KV that was kept beside the session is what a gather from the pool would bring', async () => {
  if (nativeIsMissing()) return;
  await withOnnxModel(async (model) => {
    const chunks = [64, 100, 1, 1, 1, 33];
    const run = (sequence?: object) =>
      withPool(model, prompt.length, (pool) => forwardTokens(model, pool, prompt, chunks, sequence));
    assert.equal(await run({}), await run());
  });
});

test('KV is gathered again where what was kept is not what the blocks hold now', async () => {
  if (nativeIsMissing()) return;
  await withOnnxModel((model) =>
    withPool(model, 2 * prompt.length, async (pool) => {
      const sequence = {};
      const [first, next] = [prompt.slice(0, 48), prompt.slice(48, 60)];
      await model.forward(pool, chunkInput(pool, first, 0, { sequence }));
      const expected = await model.forward(pool, chunkInput(pool, next, 48, { sequence }));
      // Other blocks hold another prompt: a preempted request that was resumed there sees that one.
      const other = chunkInput(pool, [...prompt].reverse().slice(0, 48), 0, { firstBlock: 20 });
      await model.forward(pool, other);
      await model.forward(pool, chunkInput(pool, first, 0, { sequence }));
      const moved = await model.forward(pool, chunkInput(pool, next, 48, { sequence, firstBlock: 20 }));
      assert.not.equal(moved, expected);
      // Fewer tokens than were kept.
      await model.forward(pool, chunkInput(pool, prompt.slice(0, 64), 0, { sequence }));
      assert.equal(await model.forward(pool, chunkInput(pool, next, 48, { sequence })), expected);
    }),
  );
});

test('requests of one step do not see each other, and logits come in the order asked for', async () => {
  if (nativeIsMissing()) return;
  await withOnnxModel((model) =>
    withPool(model, 4 * prompt.length, async (pool) => {
      const parts = [prompt.slice(0, 20), prompt.slice(50, 51), prompt.slice(60, 93)];
      const inputs = parts.map((tokens, i) => chunkInput(pool, tokens, 0, { firstBlock: 1 + 10 * i }));
      const alone: Float32Array[] = [];
      for (const input of inputs) alone.push(await model.forward(pool, input));
      const together = await model.forward(pool, {
        ...concatenated(inputs),
        logitsIndices: Int32Array.of(53, 19, 20, 30),
      });
      const row = (logits: Float32Array, i: number) =>
        logits.subarray(i * model.vocabSize, (i + 1) * model.vocabSize);
      for (const [i, [request, token]] of (
        [
          [2, 32],
          [0, 19],
          [1, 0],
          [2, 9],
        ] as const
      ).entries()) {
        assert.equal(row(together, i), row(alone[request]!, token));
      }
    }),
  );
});

function concatenated(inputs: readonly ForwardInput[]): ForwardInput {
  const joined = (field: 'tokenIds' | 'positions' | 'blockTables') =>
    Int32Array.from(inputs.flatMap((input) => [...input[field]]));
  const sums = (field: 'tokenIds' | 'blockTables') =>
    [0, ...inputs].map((_, i) => inputs.slice(0, i).reduce((sum, input) => sum + input[field].length, 0));
  return {
    tokenIds: joined('tokenIds'),
    positions: joined('positions'),
    cuSeqlensQ: Int32Array.from(sums('tokenIds')),
    blockTables: joined('blockTables'),
    cuBlocks: Int32Array.from(sums('blockTables')),
    logitsIndices: new Int32Array(),
    sequences: inputs.map(() => ({})),
  };
}

test('the event loop goes on while the thread computes', async () => {
  if (nativeIsMissing()) return;
  await withOnnxModel((model) =>
    withPool(model, 2000, async (pool) => {
      const tokens = Array.from({ length: 2000 }, (_, i) => prompt[i % 200]!);
      let isDone = false;
      const input = { ...chunkInput(pool, tokens, 0), logitsIndices: Int32Array.of(1999) };
      const done = model.forward(pool, input).finally(() => {
        isDone = true;
      });
      let numTurns = 0;
      while (!isDone) {
        await nextTurn();
        numTurns++;
      }
      await done;
      assert.ok(numTurns > 50, `${numTurns} turns`);
    }),
  );
});

test('a closed model has no threads left and refuses to run', async () => {
  if (nativeIsMissing()) return;
  const numThreads = () => readdirSync('/proc/self/task').length;
  await withTinyModel(async (folder) => {
    await exportOnnx(folder);
    const before = numThreads();
    const model = await loadOnnxModel(folder, limits, 2);
    assert.ok(numThreads() > before);
    await withPool(model, 16, async (pool) => {
      model.close();
      model.close();
      const error = await errorOf(() => model.forward(pool, chunkInput(pool, [1], 0)));
      assert.match(error.message, /closed/);
    });
    for (let i = 0; i < 300 && numThreads() > before; i++) await sleep(10);
    assert.ok(numThreads() <= before);
  });
});

test('what does not fit is refused in a sentence', async () => {
  if (nativeIsMissing()) return;
  await withOnnxModel((model) =>
    withPool(model, 64, async (pool) => {
      const first = model.forward(pool, chunkInput(pool, prompt.slice(0, 40), 0));
      const second = await errorOf(() => model.forward(pool, chunkInput(pool, [1], 40)));
      assert.match(second.message, /one forward pass at a time/);
      await first;
      const input = { ...chunkInput(pool, [1, 2], 0), positions: Int32Array.of(0, 5) };
      const gap = await errorOf(() => model.forward(pool, input));
      assert.match(gap.message, /consecutive positions .* received 5 at index 1/);
      await withPool({ ...model, kvShape: { ...model.kvShape, headDim: 8 } }, 16, async (other) => {
        const shape = await errorOf(() => model.forward(other, chunkInput(other, [1], 0)));
        assert.match(shape.message, /pool for 4 layers, 2 KV heads, head size 16, float32 but received/);
      });
    }),
  );
});

/** Reads everything in half precision: K = V = (id, id / 2) per token, logit j = j · (sum of ids up to the token). */
function halfPrecisionGraph(): Uint8Array {
  const graph = new OnnxGraph('');
  const ids = graph.input('input_ids', 'int64', ['b', 's']);
  graph.input('attention_mask', 'int64', ['b', 't']);
  const cast = (value: string, dtype: 'float16' | 'float32') =>
    graph.node('Cast', [value], { attributes: { to: { dtype } } });
  const axis = (name: string, ...values: bigint[]) =>
    graph.constant(name, BigInt64Array.from(values), [values.length]);
  const [two, three] = [axis('two', 2n), axis('three', 3n)];
  const idsFloat = cast(ids, 'float32');
  const column = graph.node('Unsqueeze', [idsFloat, axis('outer', 1n, 3n)]);
  const halved = graph.node('Mul', [column, graph.constant('half', Float32Array.of(0.5), [])]);
  const added = cast(graph.node('Concat', [column, halved], { attributes: { axis: 3 } }), 'float16');
  for (const part of ['key', 'value']) {
    const past = graph.input(`past_key_values.0.${part}`, 'float16', ['b', 1, 'p', 2]);
    graph.node('Concat', [past, added], { attributes: { axis: 2 }, outputs: [`present.0.${part}`] });
    graph.output(`present.0.${part}`, 'float16', ['b', 1, 't', 2]);
  }
  const pastIds = graph.node('Slice', [
    cast('past_key_values.0.key', 'float32'),
    axis('zero', 0n),
    'one',
    three,
  ]);
  axis('one', 1n);
  const pastSum = graph.node('ReduceSum', [pastIds, two], { attributes: { keepdims: 0 } });
  const flatSum = graph.node('Reshape', [pastSum, axis('flat', 1n, 1n)]);
  const sums = graph.node('Add', [graph.node('CumSum', [idsFloat, 'one']), flatSum]);
  const factors = graph.constant('factors', Float32Array.of(0, 1, 2, 3), [4]);
  graph.node('Mul', [graph.node('Unsqueeze', [sums, two]), factors], { outputs: ['logits'] });
  graph.output('logits', 'float32', ['b', 's', 4]);
  return graph.encode({ '': 17 });
}

async function writeGraph(folder: string, graph: Uint8Array): Promise<void> {
  await mkdir(path.join(folder, 'onnx'));
  await writeFile(path.join(folder, 'onnx', 'model_fp16.onnx'), graph);
}

test('an export in half precision without positions goes through float32 blocks unchanged', async () => {
  if (nativeIsMissing()) return;
  await withFolder({}, async (folder) => {
    await writeGraph(folder, halfPrecisionGraph());
    const model = await loadOnnxModel(folder, limits, 1);
    try {
      assert.equal(model.kvShape, { numLayers: 1, numKvHeads: 1, headDim: 2 });
      assert.is(model.vocabSize, 4);
      await withPool(model, 16, async (pool) => {
        for (const sequence of [undefined, {}]) {
          const logits = await forwardTokens(model, pool, [3, 5, 7, 9], [1, 2, 1], sequence);
          assert.equal(
            [...logits],
            [3, 8, 15, 24].flatMap((sum) => [0, sum, 2 * sum, 3 * sum]),
          );
        }
        const keys = new Float32Array(pool.block(1).slice().buffer).subarray(0, 8);
        assert.equal([...keys], [3, 1.5, 5, 2.5, 7, 3.5, 9, 4.5]);
      });
    } finally {
      model.close();
    }
  });
});

test('damaged, missing and other graphs are refused before anything runs', async () => {
  await withTinyModel(async (folder) => {
    const load = () => errorOf(() => loadModelFolder(folder, { backend: 'onnx', numThreads: 1 }));
    const missing = await load();
    assert.is(missing.code, 'BAD_FILE');
    assert.match(missing.message, /holds no exported decoder/);
    await writeGraph(folder, Buffer.from('not a graph'));
    const damaged = await load();
    assert.is(damaged.code, 'BAD_FILE');
    assert.match(damaged.message, /model_fp16\.onnx: ONNX Runtime cannot load it/);
    const graph = new OnnxGraph('');
    graph.input('pixels', 'float32', ['b', 3]);
    graph.node('Neg', ['pixels'], { outputs: ['inverted'] });
    graph.output('inverted', 'float32', ['b', 3]);
    await rm(path.join(folder, 'onnx'), { recursive: true });
    await writeGraph(folder, graph.encode({ '': 17 }));
    const other = await load();
    assert.is(other.code, 'BAD_FILE');
    assert.match(other.message, /input 'input_ids' is missing/);
  });
});

test.run();
