// Dummy weights of published shapes: the right sizes, in shards, on every backend, and only if the disk has room.
import { readdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { createDummyModel, type DummyOptions } from '../../src/model/dummy-model.js';
import { inspectModel } from '../../src/model/inspect-model.js';
import { readModelConfig } from '../../src/model/model-config.js';
import { loadModelFolder } from '../../src/model/model-folder.js';
import { expectedTensors, numElements } from '../../src/model/model-tensors.js';
import {
  type PublishedShape,
  publishedShapeNames,
  publishedShapes,
} from '../../src/model/published-shapes.js';
import { greedyAnswer, nativeIsMissing, withPool } from './greedy-answers.js';
import { errorOf, withFolder } from './model-folders.js';

/** As their publishers count them (safetensors metadata). */
const numParameters: Readonly<Partial<Record<PublishedShape, number>>> = {
  'qwen3-0.6b': 596_049_920,
  'qwen3-1.7b': 1_720_574_976,
  'qwen3-4b': 4_022_468_096,
  'qwen3-8b': 8_190_735_360,
  'llama-3.2-1b': 1_235_814_400,
  'llama-3.2-3b': 3_212_749_824,
  'llama-3.1-8b': 8_030_261_248,
  'qwen2.5-0.5b': 494_032_768,
  'qwen2.5-1.5b': 1_543_714_304,
  'qwen2.5-7b': 7_615_616_512,
  'smollm2-135m': 134_515_008,
  'smollm2-360m': 361_821_120,
  'smollm2-1.7b': 1_711_376_384,
  'smollm3-3b': 3_075_098_624,
  'mistral-7b': 7_248_023_552,
  'phi-3-mini': 3_821_079_552,
};

function withDummy<T>(options: DummyOptions, use: (folder: string) => Promise<T>): Promise<T> {
  return withFolder({}, async (parent) => {
    const folder = path.join(parent, 'model');
    assert.is(await createDummyModel(folder, options), true);
    return use(folder);
  });
}

for (const [arch, expected] of Object.entries(numParameters)) {
  test(`${arch} has as many parameters as published`, () =>
    withFolder({ 'config.json': publishedShapes[arch as PublishedShape] }, async (folder) => {
      const tensors = expectedTensors(await readModelConfig(folder));
      assert.is(
        tensors.reduce((sum, { shape }) => sum + numElements(shape), 0),
        expected,
      );
    }));
}

test('every published name has its count here', () => {
  const published = publishedShapeNames.filter((name) => !name.startsWith('tiny-'));
  assert.equal(published.sort(), Object.keys(numParameters).sort());
});

test('weights come in shards with an index, the same tensors and bytes as in one file', async () => {
  const options = { arch: 'tiny-phi3', seed: 3 } as const;
  const whole = await withDummy(options, async (folder) => {
    assert.ok((await readdir(folder)).includes('model.safetensors'));
    return readFile(path.join(folder, 'model.safetensors'));
  });
  await withDummy({ ...options, maxShardBytes: 200_000 }, async (folder) => {
    const names = await readdir(folder);
    const shards = names.filter((name) => name.endsWith('.safetensors')).sort();
    assert.ok(shards.length > 3, names.join());
    assert.is(shards[0], `model-00001-of-0000${shards.length}.safetensors`);
    const index = JSON.parse(await readFile(path.join(folder, 'model.safetensors.index.json'), 'utf8'));
    assert.is(index.metadata.total_size, 2 * (await inspectModel(folder, 16)).num_parameters!);
    const data = await Promise.all(shards.map((name) => readFile(path.join(folder, name))));
    const tensors = (file: Buffer) => file.subarray(8 + Number(file.readBigUInt64LE()));
    assert.ok(Buffer.concat(data.map(tensors)).equals(tensors(whole)));
  });
});

test('fewer layers make a smaller model of the same width, and progress ends at all', async () => {
  const progress: number[] = [];
  const options: DummyOptions = {
    arch: 'smollm2-135m',
    seed: 0,
    numLayers: 1,
    onProgress: (fraction) => progress.push(fraction),
  };
  await withDummy(options, async (folder) => {
    const report = await inspectModel(folder, 16);
    assert.is(report.num_hidden_layers, 1);
    assert.is(report.hidden_size, 576);
    assert.is(report.vocab_size, 49_152);
    assert.is(report.tokenizer_size, 4360);
    assert.is(progress.at(-1), 1);
    assert.equal(
      progress,
      [...progress].sort((a, b) => a - b),
    );
    assert.is(report.history_round_trip, 'any_answer');
  });
});

test('padding of the vocabulary is never answered', async () => {
  if (nativeIsMissing()) return;
  await withDummy({ arch: 'smollm2-135m', seed: 0, numLayers: 2 }, async (folder) => {
    const loaded = await loadModelFolder(folder, { numThreads: 2 });
    try {
      const answer = await withPool(loaded.model, 64, (pool) => greedyAnswer(loaded, pool, [300, 301], 24));
      assert.ok(answer.tokenIds.every((id) => id < 4352));
      assert.ok(new Set(answer.tokenIds).size > 3, answer.tokenIds.join());
    } finally {
      loaded.model.close();
    }
  });
});

test('a disk without room is noticed before weights are written, and nothing is left', () =>
  withFolder({}, async (parent) => {
    const folder = path.join(parent, 'model');
    const options = { arch: 'llama-3.1-8b', seed: 0, freeBytes: 2 ** 30 } as const;
    const error = await errorOf(() => createDummyModel(folder, options));
    assert.is(error.code, 'INVALID_ARGUMENT');
    assert.match(error.message, /take 15\.0 GiB while they are written, but .* has 1\.0 GiB free/);
    assert.equal(await readdir(parent), []);
    const onnx = await errorOf(() => createDummyModel(folder, { ...options, format: 'onnx' }));
    assert.match(onnx.message, /take 44\.9 GiB/);
  }));

test('onnx alone leaves no safetensors behind, sharded or not', () =>
  withDummy({ arch: 'tiny-qwen2', seed: 1, format: 'onnx', maxShardBytes: 300_000 }, async (folder) => {
    assert.not.ok((await readdir(folder)).some((name) => name.includes('safetensors')));
    assert.equal((await inspectModel(folder, 16)).backends, ['onnx']);
    await rm(folder, { recursive: true });
  }));

test.run();
