// The forward pass on a GPU, here an emulated one: right by the CPU's, batch-invariant, and clear about what it refuses.
import { setTimeout } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KvCacheDtype } from '../../src/config.js';
import { VllmPdError } from '../../src/errors.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import type { NativeModel } from '../../src/native/model.js';
import type { CudaModelOptions, NativeModelConfig } from '../../src/native/model-config.js';
import { loadNative } from '../../src/native.js';
import { defaultSamplingParams, Request, type SamplingParams } from '../../src/request.js';
import { Sampler } from '../../src/worker/sampler.js';
import { useEmulatedDevice } from './emulated-device.js';
import { createPool, createRandomModel, forwardChunks, type RandomModel } from './random-model.js';

const options: CudaModelOptions = {
  dtype: 'bfloat16',
  kvDtype: 'bfloat16',
  batchInvariant: true,
  maxTokens: 64,
  maxRequests: 4,
  maxPositions: 64,
};
const blockSize = 16;

function loadOnDevice(random: RandomModel, changes: Partial<CudaModelOptions> = {}): Promise<NativeModel> {
  return loadNative().loadCudaModel(random.config, random.tensors, { ...options, ...changes });
}

function devicePool(
  { numLayers, numKvHeads, headDim }: NativeModelConfig,
  numBlocks: number,
  dtype: KvCacheDtype = 'bfloat16',
): KvPool {
  const layout = { numBlocks, numLayers, numKvHeads, blockSize, headDim, dtype } as const;
  return loadNative().createPool(layout, 'device');
}

const tokensOf = (count: number, seed = 1) =>
  Array.from({ length: count }, (_, i) => (i * 37 + seed * 11) % 90);
const table = (numTokens: number, first = 1) =>
  Array.from({ length: Math.ceil(numTokens / blockSize) }, (_, i) => i + first).reverse();

/** A call's own hold on what it used ends on the model's thread, a moment after its promise is settled. */
async function allGivenBack(): Promise<void> {
  const endMs = performance.now() + 10_000;
  while (loadNative().cudaMemory().own !== 0 && performance.now() < endMs) await setTimeout(1);
  assert.is(loadNative().cudaMemory().own, 0);
}

/** A model, loaded on both backends, and a pool for each. */
async function withBoth(
  changes: Partial<NativeModelConfig>,
  body: (cuda: readonly [NativeModel, KvPool], cpu: readonly [NativeModel, KvPool]) => Promise<void>,
  cudaChanges: Partial<CudaModelOptions> = {},
): Promise<void> {
  const random = createRandomModel(changes, 'BF16');
  const cuda = [
    await loadOnDevice(random, cudaChanges),
    devicePool(random.config, 16, cudaChanges.kvDtype),
  ] as const;
  const weights = { dtype: 'float32', quantization: null } as const;
  const cpu = [
    await loadNative().loadModel(random.config, random.tensors, 1, weights),
    createPool(random.config, 16, blockSize, 'bfloat16'),
  ] as const;
  try {
    await body(cuda, cpu);
  } finally {
    for (const [model, pool] of [cuda, cpu]) {
      model.close();
      pool.close();
    }
    random.remove();
  }
}

/** Largest difference, and the root mean square of what was expected. */
function compare(received: readonly Float32Array[], expected: readonly Float32Array[]) {
  let worst = 0;
  let squares = 0;
  let count = 0;
  for (const [row, values] of expected.entries()) {
    for (const [i, value] of values.entries()) {
      worst = Math.max(worst, Math.abs(received[row]![i]! - value));
      squares += value * value;
      count += 1;
    }
  }
  return worst / Math.sqrt(squares / count);
}

async function code(run: () => unknown): Promise<string> {
  try {
    await run();
  } catch (error) {
    assert.instance(error, VllmPdError);
    return `${(error as VllmPdError).code}: ${(error as VllmPdError).message}`;
  }
  return 'nothing was thrown';
}

// Whatever this machine has: an emulated device is none that it could run on.
if (!process.env.VLLM_PD_LIBCUDA) process.env.VLLM_PD_LIBCUBLASLT = '/nowhere/libcublasLt.so';

if (useEmulatedDevice()) {
  const shapes: Record<string, Partial<NativeModelConfig>> = {
    'grouped queries': { numHeads: 4, numKvHeads: 2, headDim: 16, hiddenSize: 64, intermediateSize: 96 },
    'norms on q and k, tied embeddings': {
      ...{ numHeads: 4, numKvHeads: 1, headDim: 8, hiddenSize: 32, intermediateSize: 40 },
      ...{ qkNorm: true, tieWordEmbeddings: true },
    },
    'all biases': {
      ...{ numHeads: 2, numKvHeads: 2, headDim: 16, hiddenSize: 32, intermediateSize: 48 },
      ...{ attentionBias: true, outputBias: true, mlpBias: true },
    },
    'a part of each head rotated, a layer without positions, a sliding window': {
      ...{ numHeads: 4, numKvHeads: 2, headDim: 32, hiddenSize: 64, intermediateSize: 64, numLayers: 2 },
      ...{ invFreq: Float32Array.of(1, 0.3, 0.1, 0.03), noRopeLayers: [1], slidingWindows: [0, 9] },
    },
  };

  for (const [name, changes] of Object.entries(shapes)) {
    test(`logits are the CPU's within what bf16 activations allow: ${name}`, async () => {
      await withBoth(changes, async ([cuda, cudaPool], [cpu, cpuPool]) => {
        const tokens = tokensOf(40);
        const chunk = { tokens, begin: 0, end: 40, blockTable: table(40) };
        const received = await forwardChunks(cuda, cudaPool, [chunk]);
        const expected = await forwardChunks(cpu, cpuPool, [chunk]);
        // Activations have 8 bits, the CPU's 24; sums are float32 on both.
        const error = compare(received, expected);
        assert.ok(error < 0.08, `largest difference: ${error} of the logits' root mean square`);
      });
    });
  }

  const types: Record<string, Partial<CudaModelOptions>> = {
    bfloat16: {},
    float16: { dtype: 'float16', kvDtype: 'float16' },
    'bfloat16, KV in fp8': { kvDtype: 'fp8' },
    'float16, KV in fp8': { dtype: 'float16', kvDtype: 'fp8' },
  };

  for (const [name, kept] of Object.entries(types).slice(1)) {
    test(`logits are the CPU's within what the type allows: ${name}`, async () => {
      await withBoth(
        shapes['grouped queries']!,
        async ([cuda, cudaPool], [cpu, cpuPool]) => {
          const tokens = tokensOf(40);
          const chunk = { tokens, begin: 0, end: 40, blockTable: table(40) };
          const received = await forwardChunks(cuda, cudaPool, [chunk]);
          const error = compare(received, await forwardChunks(cpu, cpuPool, [chunk]));
          // float16 has three bits more than bfloat16, which the KV of the CPU has here; fp8 has four fewer.
          const most = kept.kvDtype === 'fp8' ? 0.4 : 0.04;
          assert.ok(error < most, `largest difference: ${error} of the logits' root mean square`);
        },
        kept,
      );
    });
  }

  for (const [name, kept] of Object.entries(types)) {
    test(`${name}: a token comes out bit-equal alone, in a prompt, in chunks and beside others, graphs replayed`, async () => {
      await withBoth(
        shapes['grouped queries']!,
        async ([model, pool]) => {
          const numTokens = 37;
          const tokens = tokensOf(numTokens);
          const blockTable = table(numTokens);
          const whole = await forwardChunks(model, pool, [{ tokens, begin: 0, end: numTokens, blockTable }]);
          const elsewhere = table(numTokens, 5);
          const other = { tokens: tokensOf(20, 3), blockTable: table(20, 9) };
          const alone: Float32Array[] = [];
          // Three chunks, the second beside another prompt, then one by one with another that decodes as well.
          for (const [begin, end] of [
            [0, 13],
            [13, 30],
          ] as const) {
            const chunks = [{ tokens, begin, end, blockTable: elsewhere }];
            const beside = begin === 13 ? [{ ...other, begin: 0, end: 11 }, ...chunks] : chunks;
            alone.push(...(await forwardChunks(model, pool, beside)).slice(begin === 13 ? 11 : 0));
          }
          for (let i = 30; i < numTokens; i += 1) {
            const one = { tokens, begin: i, end: i + 1, blockTable: elsewhere };
            const beside = i < 33 ? [] : [{ ...other, begin: i - 22, end: i - 21 }];
            alone.push((await forwardChunks(model, pool, [...beside, one])).at(-1)!);
          }
          assert.is(alone.length, numTokens);
          for (const [i, row] of alone.entries()) {
            assert.equal(
              Buffer.from(row.slice().buffer),
              Buffer.from(whole[i]!.slice().buffer),
              `token ${i}`,
            );
          }
        },
        kept,
      );
    });
  }

  test('a captured step serves any number of requests that its size was padded for', async () => {
    await withBoth(shapes['grouped queries']!, async ([model, pool]) => {
      // Requests share their first block and have a last one each.
      const shared = { tokens: tokensOf(blockSize), begin: 0, end: blockSize, blockTable: [1] };
      await forwardChunks(model, pool, [shared]);
      const decode = async (count: number, step: number) =>
        forwardChunks(
          model,
          pool,
          Array.from({ length: count }, (_, i) => ({
            tokens: [...shared.tokens, 7 * i + 1, 3 * i + 2, i],
            begin: blockSize + step,
            end: blockSize + step + 1,
            blockTable: [1, i + 2],
          })),
        );
      // The second of three steps with nine is captured, and fourteen go by what was captured then.
      for (const step of [0, 1]) await decode(9, step);
      for (const step of [0, 1]) await decode(14, step);
      const together = await decode(14, 2);
      for (let i = 0; i < 14; i += 1) {
        const tokens = [...shared.tokens, 7 * i + 1, 3 * i + 2, i];
        const end = tokens.length;
        const [alone] = await forwardChunks(model, pool, [
          { tokens, begin: end - 1, end, blockTable: [1, i + 2] },
        ]);
        assert.equal(together[i], alone, `request ${i}`);
      }
    });
  });

  test('logits come in the order in which they were asked for, twice where asked twice', async () => {
    await withBoth(shapes['grouped queries']!, async ([model, pool]) => {
      const tokens = tokensOf(8);
      const input = (logitsIndices: number[]) => ({
        tokenIds: Int32Array.from([...tokens, 7]),
        positions: Int32Array.of(0, 1, 2, 3, 4, 5, 6, 7, 0),
        cuSeqlensQ: Int32Array.of(0, 8, 9),
        blockTables: Int32Array.of(3, 4),
        cuBlocks: Int32Array.of(0, 1, 2),
        logitsIndices: Int32Array.from(logitsIndices),
      });
      const { vocabSize } = model.config;
      const all = await model.forward(pool, input([0, 1, 2, 3, 4, 5, 6, 7, 8]));
      const wanted = [8, 2, 7, 2, 2, 2, 2, 2, 2, 2, 2, 0];
      const some = await model.forward(pool, input(wanted));
      for (const [row, index] of wanted.entries()) {
        const received = some.slice(row * vocabSize, (row + 1) * vocabSize);
        assert.equal(received, all.slice(index * vocabSize, (index + 1) * vocabSize), `row ${row}`);
      }
      assert.is((await model.forward(pool, input([]))).length, 0);
    });
  });

  test('tokens that are drawn on the device are those that the host draws from the same logits', async () => {
    const suppressTokenIds = [3, 4, 5, 50];
    const sampler = new Sampler({ suppressTokenIds, seed: 5 });
    const choices: readonly Partial<SamplingParams>[] = [
      { temperature: 0 },
      {},
      { temperature: 0.3, topK: 5 },
      { temperature: 2, topP: 0.6 },
      { topK: 90, topP: 0.95, seed: 11 },
      { temperature: 0, minTokens: 3, stopTokenIds: [9, 10], ignoreEos: true },
      { minP: 0.1 },
      { logprobs: 2 },
      { presencePenalty: 1 },
      { logitBias: new Map([[7, 50]]) },
      { allowedTokenIds: [4] },
    ];
    await withBoth(
      shapes['grouped queries']!,
      async ([model, pool]) => {
        const { vocabSize } = model.config;
        for (const length of [3, 4, 5]) {
          const requests = choices.map(
            (params, i) =>
              new Request(
                {
                  requestId: `${i}`,
                  promptTokenIds: tokensOf(length, i),
                  samplingParams: { ...defaultSamplingParams, ...params },
                  eosTokenIds: [vocabSize + 1, 8],
                },
                0,
              ),
          );
          const step = {
            tokenIds: Int32Array.from(requests.flatMap((request) => request.tokenIds)),
            positions: Int32Array.from(requests.flatMap(() => Array.from({ length }, (_, i) => i))),
            cuSeqlensQ: Int32Array.from([0, ...requests.map((_, i) => (i + 1) * length)]),
            blockTables: Int32Array.from(requests.map((_, i) => i + 1)),
            cuBlocks: Int32Array.from([0, ...requests.map((_, i) => i + 1)]),
            logitsIndices: Int32Array.from(requests.map((_, i) => (i + 1) * length - 1)),
          };
          const logits = await model.forward(pool, step);
          const draws = requests.map((request) => sampler.drawOf(request));
          assert.is(draws.filter((draw) => draw === null).length, 5);
          const sampled = await model.forwardAndSample(pool, step, draws);
          let hostRow = 0;
          for (const [i, request] of requests.entries()) {
            const row = logits.slice(i * vocabSize, (i + 1) * vocabSize);
            if (draws[i] === null) {
              const begin = hostRow++ * vocabSize;
              assert.equal(sampled.logits.slice(begin, begin + vocabSize), row, `logits of ${i}`);
              assert.is(sampled.tokenIds[i], null);
            } else {
              assert.is(sampled.tokenIds[i], sampler.sample(request, row).tokenId, `token of ${i}`);
            }
          }
          assert.is(sampled.logits.length, hostRow * vocabSize);
        }
      },
      { suppressTokenIds },
    );
  });

  test('draws that nobody could make are refused, and a model on the CPU makes none', async () => {
    await withBoth(shapes['grouped queries']!, async ([cuda, cudaPool], [cpu, cpuPool]) => {
      const step = {
        tokenIds: Int32Array.of(1),
        positions: Int32Array.of(0),
        cuSeqlensQ: Int32Array.of(0, 1),
        blockTables: Int32Array.of(1),
        cuBlocks: Int32Array.of(0, 1),
        logitsIndices: Int32Array.of(0),
      };
      const draw = { temperature: 1, topK: 0, topP: 1, share: 0.5, forbidden: [] };
      assert.match(
        await code(() => cpu.forwardAndSample(cpuPool, step, [draw])),
        /^NOT_SUPPORTED: .*on a GPU/,
      );
      for (const wrong of [
        { share: 1 },
        { temperature: -1 },
        { topK: -1 },
        { forbidden: new Array(9).fill(1) },
      ]) {
        assert.match(
          await code(() => cuda.forwardAndSample(cudaPool, step, [{ ...draw, ...wrong }])),
          /^INVALID_ARGUMENT: Expected how to draw a token/,
        );
      }
      assert.match(
        await code(() => cuda.forwardAndSample(cudaPool, step, [draw, draw])),
        /^INVALID_ARGUMENT: Expected rows of draws/,
      );
    });
  });

  test('without cuBLASLt, --no-batch-invariant computes with our own products, bit for bit', async () => {
    if (!process.env.VLLM_PD_LIBCUBLASLT)
      return console.log('skipped: a driver was named, and its cuBLASLt may be here');
    assert.match(loadNative().cudaFacts().whyNoCublasLt, /^There is no cuBLASLt: .*nowhere/);
    const random = createRandomModel(shapes['grouped queries']!, 'BF16');
    const rows: Float32Array[][] = [];
    for (const batchInvariant of [true, false]) {
      const model = await loadOnDevice(random, { batchInvariant });
      const pool = devicePool(random.config, 8);
      rows.push(
        await forwardChunks(model, pool, [
          { tokens: tokensOf(40), begin: 0, end: 40, blockTable: table(40) },
        ]),
      );
      model.close();
      pool.close();
    }
    random.remove();
    assert.is(rows[0]!.length, 40);
    assert.equal(rows[1], rows[0]);
  });

  test('blocks go out, in and from pool to pool as they are', async () => {
    await withBoth(shapes['grouped queries']!, async ([model, pool], [, cpuPool]) => {
      const tokens = tokensOf(40);
      const blockTable = [1, 2, 3];
      await forwardChunks(model, pool, [{ tokens, begin: 0, end: 40, blockTable }]);
      const hashes = ['a', 'b'].map((digit) => digit.repeat(64));
      for (const [i, hash] of hashes.entries()) pool.publish(i + 1, hash);
      const { data, valid } = pool.copyOut([1, 2, 3], [...hashes, 'c'.repeat(64)]);
      assert.equal([...valid], [1, 1, 0]);
      assert.ok(data.subarray(0, 2 * pool.blockBytes).some((byte) => byte !== 0));
      assert.ok(data.subarray(2 * pool.blockBytes).every((byte) => byte === 0));
      const copyOf = (from: KvPool, ids: number[]) => {
        for (const [i, id] of ids.entries()) from.publish(id, hashes[i]!);
        return from.copyOut(ids, hashes).data;
      };
      const expected = data.subarray(0, 2 * pool.blockBytes);

      const second = devicePool(model.config, 8);
      const native = loadNative();
      const opened = native.openPeerPool(process.pid, pool.fd, pool.layout);
      // Device to device, with a block that its owner never published.
      assert.equal(
        [...(await opened.read(second, [2, 1, 3], [6, 4, 5], [hashes[1]!, hashes[0]!, hashes[0]!]))],
        [1, 1, 0],
      );
      assert.equal(copyOf(second, [4, 6]), new Uint8Array(expected));
      // Device to host, and host to device.
      assert.equal([...(await opened.read(cpuPool, [1, 2], [7, 3], hashes))], [1, 1]);
      assert.equal(copyOf(cpuPool, [7, 3]), new Uint8Array(expected));
      opened.close();
      const host = native.openPeerPool(process.pid, cpuPool.fd, cpuPool.layout);
      assert.equal([...(await host.read(second, [7, 3], [1, 2], hashes))], [1, 1]);
      assert.equal(copyOf(second, [1, 2]), new Uint8Array(expected));
      host.close();
      second.copyIn([3, 7], new Uint8Array(expected));
      assert.equal(copyOf(second, [3, 7]), new Uint8Array(expected));
      assert.match(await code(() => second.block(1)), /^NOT_SUPPORTED: .* lie on a device/);
      second.close();
    });
  });

  test('pools in the wrong place and shapes that kernels do not take are refused by name', async () => {
    await withBoth(shapes['grouped queries']!, async ([cuda, cudaPool], [cpu, cpuPool]) => {
      const chunk = [{ tokens: [1], begin: 0, end: 1, blockTable: [1] }];
      assert.match(
        await code(() => forwardChunks(cuda, cpuPool, chunk)),
        /^INVALID_ARGUMENT: .* pool on the device/,
      );
      assert.match(
        await code(() => forwardChunks(cpu, cudaPool, chunk)),
        /^INVALID_ARGUMENT: .* pool in host memory/,
      );
      for (const [model, pool, message] of [
        [cuda, devicePool(cuda.config, 2, 'fp8'), /pool of bfloat16, as the model was loaded for, .* fp8\.$/],
        [
          cpu,
          createPool(cpu.config, 2, blockSize, 'float16'),
          /pool of float32 or bfloat16 on the CPU .* float16\.$/,
        ],
      ] as const) {
        assert.match(await code(() => forwardChunks(model, pool, chunk)), message);
        pool.close();
      }
    });
    await allGivenBack();
    const odd = createRandomModel({ intermediateSize: 42 }, 'BF16');
    assert.match(
      await code(() => loadOnDevice(odd)),
      /^NOT_SUPPORTED: .*intermediate_size to be a multiple of 8/,
    );
    odd.remove();
    const huge = {
      numBlocks: 1 << 20,
      numLayers: 8,
      numKvHeads: 8,
      blockSize,
      headDim: 128,
      dtype: 'bfloat16',
    } as const;
    assert.match(
      await code(() => loadNative().createPool(huge, 'device')),
      /^INVALID_ARGUMENT: .* bytes of memory on/,
    );
    await allGivenBack();
  });
}

test.run();
