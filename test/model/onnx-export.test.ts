// The ONNX decoder against the native one: the same weights give the same logits, for every family and every prompt.
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { createModelFolder } from '../../src/model/default-model.js';
import { inspectModel } from '../../src/model/inspect-model.js';
import type { Model } from '../../src/model/model.js';
import { readModelConfig } from '../../src/model/model-config.js';
import { loadModelFolder } from '../../src/model/model-folder.js';
import { loadModel } from '../../src/model/native-model.js';
import { exportOnnx } from '../../src/model/onnx-export.js';
import { loadOnnxModel } from '../../src/model/onnx-model.js';
import { greedyAnswer, nativeIsMissing, withPool } from './greedy-answers.js';
import { createRandom, errorOf, llamaConfig, withFolder, withTinyModel } from './model-folders.js';
import { forwardTokens } from './onnx-forward.js';
import { withSeededFolder } from './seeded-folder.js';

/** On logits with a standard deviation of about 4. */
const tolerance = 1e-3;

function randomPrompt(seed: number, length: number, vocabSize: number): number[] {
  const random = createRandom(seed);
  return Array.from({ length }, () => Math.floor(random() * vocabSize));
}

function farthest(a: Float32Array, b: Float32Array): number {
  assert.is(a.length, b.length);
  return a.reduce((max, value, i) => Math.max(max, Math.abs(value - b[i]!)), 0);
}

async function withBoth<T>(folder: string, use: (native: Model, onnx: Model) => Promise<T>): Promise<T> {
  const native = await loadModel(folder, 2, { dtype: 'float32' });
  try {
    const onnx = await loadOnnxModel(folder, await readModelConfig(folder), 2);
    try {
      return await use(native, onnx);
    } finally {
      onnx.close();
    }
  } finally {
    native.close();
  }
}

test('native and onnx agree on the logits of whole and of chunked prompts', async () => {
  if (nativeIsMissing()) return;
  await withTinyModel(async (folder) => {
    await exportOnnx(folder);
    await withBoth(folder, async (native, onnx) => {
      for (const chunks of [[1], [37], [200], [64, 100, 1, 1, 30], [15, 1, 16, 250]]) {
        const numTokens = chunks.reduce((sum, size) => sum + size);
        const prompt = randomPrompt(numTokens, numTokens, native.vocabSize);
        const logits = (model: Model) =>
          withPool(model, numTokens, (pool) => forwardTokens(model, pool, prompt, chunks));
        const [expected, actual] = [await logits(native), await logits(onnx)];
        const spread = Math.sqrt(expected.reduce((sum, x) => sum + x * x, 0) / expected.length);
        assert.ok(spread > 3 && spread < 5, `standard deviation ${spread}`);
        assert.ok(farthest(expected, actual) < tolerance, `chunks ${chunks}: ${farthest(expected, actual)}`);
      }
    });
  });
});

test('native and onnx agree on greedy text', async () => {
  if (nativeIsMissing()) return;
  await withTinyModel(async (folder) => {
    await exportOnnx(folder);
    const answers = [];
    for (const backend of ['cpu', 'onnx'] as const) {
      const weights = backend === 'cpu' ? ({ dtype: 'float32' } as const) : {};
      const loaded = await loadModelFolder(folder, { backend, numThreads: 2, ...weights });
      try {
        const texts: string[] = [];
        for (const seed of [1, 2, 3]) {
          const prompt = randomPrompt(seed, 30 * seed, 4000);
          const answer = await withPool(loaded.model, 400, (pool) => greedyAnswer(loaded, pool, prompt, 100));
          texts.push(loaded.tokenizer.decode(answer.tokenIds));
        }
        answers.push(texts);
      } finally {
        loaded.model.close();
      }
    }
    assert.equal(answers[1], answers[0]);
    assert.is(new Set(answers[0]).size, 3);
  });
});

const shape = {
  ...llamaConfig,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  vocab_size: 96,
};
const llama3 = {
  rope_type: 'llama3',
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 16,
};
const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 16 };
const families: Readonly<Record<string, object>> = {
  llama: { ...shape, num_key_value_heads: 2, rope_scaling: llama3 },
  'mistral with a head size of its own': { ...shape, model_type: 'mistral', head_dim: 16 },
  'mistral with a sliding window': { ...shape, model_type: 'mistral', sliding_window: 11 },
  'qwen2 with a sliding window in its upper layer': {
    ...shape,
    model_type: 'qwen2',
    use_sliding_window: true,
    sliding_window: 16,
    max_window_layers: 1,
  },
  'qwen2 with biases and tied embeddings': { ...shape, model_type: 'qwen2', tie_word_embeddings: true },
  'qwen2 with yarn': { ...shape, model_type: 'qwen2', num_key_value_heads: 2, rope_scaling: yarn },
  'qwen3 with one KV head per query head': { ...shape, model_type: 'qwen3', num_key_value_heads: 4 },
  'qwen3 with biases around attention': { ...shape, model_type: 'qwen3', attention_bias: true },
  'llama with every bias and dynamic rope': {
    ...shape,
    attention_bias: true,
    mlp_bias: true,
    rope_scaling: { type: 'dynamic', factor: 4 },
  },
  'smollm3 with a layer without rope': {
    ...shape,
    model_type: 'smollm3',
    rope_scaling: { type: 'linear', factor: 2 },
    no_rope_layers: [1, 0],
  },
  'phi3 with fused projections, partial rotation and longrope': {
    ...shape,
    model_type: 'phi3',
    head_dim: 16,
    partial_rotary_factor: 0.75,
    original_max_position_embeddings: 16,
    rope_scaling: {
      type: 'longrope',
      short_factor: [1, 1, 1.1, 1.2, 1.3, 1.4],
      long_factor: [1, 1.5, 2, 3, 4, 4],
    },
  },
};

for (const [family, config] of Object.entries(families)) {
  test(`${family} is the same decoder in both formats`, async () => {
    if (nativeIsMissing()) return;
    await withSeededFolder(config, async (folder) => {
      await exportOnnx(folder);
      await withBoth(folder, async (native, onnx) => {
        const prompt = randomPrompt(5, 50, 96);
        const logits = (model: Model) =>
          withPool(model, 50, (pool) => forwardTokens(model, pool, prompt, [33, 16, 1]));
        const [expected, actual] = [await logits(native), await logits(onnx)];
        assert.ok(expected.some((logit) => Math.abs(logit) > 0.5));
        assert.ok(farthest(expected, actual) < tolerance, `${farthest(expected, actual)}`);
      });
    });
  });
}

test('the export is written once, whole, and with the same bytes every time', () =>
  withTinyModel(async (folder) => {
    const files = async () =>
      Promise.all(['model.onnx', 'model.onnx_data'].map((name) => readFile(path.join(folder, 'onnx', name))));
    const progress: number[] = [];
    assert.is(await exportOnnx(folder, (fraction) => progress.push(fraction)), true);
    assert.is(progress.at(-1), 1);
    assert.is(await exportOnnx(folder), false);
    const first = await files();
    await rm(path.join(folder, 'onnx'), { recursive: true });
    await Promise.all([exportOnnx(folder), exportOnnx(folder)]);
    assert.ok((await files()).every((bytes, i) => bytes.equals(first[i]!)));
    assert.equal(
      (await readdir(folder)).filter((name) => name.includes('tmp')),
      [],
    );
  }));

test('a folder may be created in either format or in both, and says which backends can run it', () =>
  withFolder({}, async (parent) => {
    for (const [format, backends] of [
      ['safetensors', ['cpu']],
      ['onnx', ['onnx']],
      ['both', ['cpu', 'onnx']],
    ] as const) {
      const folder = path.join(parent, format);
      assert.is(await createModelFolder(folder, { arch: 'tiny', seed: 0, format }), true);
      const report = await inspectModel(folder, 16);
      assert.equal(report.backends, backends);
      assert.is(report.num_parameters, 706_240);
      assert.ok(report.weights_bytes >= 2 * 706_240);
    }
  }));

test('a folder whose weights are no safetensors cannot be exported', () =>
  withFolder({ 'config.json': llamaConfig }, async (folder) => {
    assert.is((await errorOf(() => exportOnnx(folder))).code, 'BAD_FILE');
    assert.equal(await readdir(folder), ['config.json']);
    await mkdir(path.join(folder, 'onnx'));
    assert.is((await errorOf(() => exportOnnx(folder))).code, 'BAD_FILE');
  }));

test.run();
