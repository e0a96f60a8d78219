// Exported decoders in the forms of the field against the native module on the weights that these forms stand for.
import { mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { modelFingerprint } from '../../src/engine/model-fingerprint.js';
import { chooseBackend, chooseBackendFor } from '../../src/model/choose-backend.js';
import type { Model } from '../../src/model/model.js';
import { readModelConfig } from '../../src/model/model-config.js';
import { loadModelFolder } from '../../src/model/model-folder.js';
import { loadModel } from '../../src/model/native-model.js';
import { requireOnnxFiles } from '../../src/model/onnx-files.js';
import { loadOnnxModel } from '../../src/model/onnx-model.js';
import { nativeIsMissing, withPool } from './greedy-answers.js';
import { createRandom, errorOf, withFolder, withTinyModel } from './model-folders.js';
import { forwardTokens } from './onnx-forward.js';
import { variants, withVariant } from './onnx-variants.js';

const random = createRandom(3);
const prompt = Array.from({ length: 50 }, () => Math.floor(random() * 96));

function logits(model: Model, chunks: readonly number[]): Promise<Float32Array> {
  return withPool(model, prompt.length, (pool) => forwardTokens(model, pool, prompt, chunks));
}

/** Root mean square of the difference over that of what was expected. */
function relativeError(actual: Float32Array, expected: Float32Array): number {
  assert.is(actual.length, expected.length);
  const square = (values: Float32Array) => values.reduce((sum, value) => sum + value * value, 0);
  return Math.sqrt(square(actual.map((value, i) => value - expected[i]!)) / square(expected));
}

async function withModel<T>(loaded: Promise<Model>, use: (model: Model) => Promise<T>): Promise<T> {
  const model = await loaded;
  try {
    return await use(model);
  } finally {
    model.close();
  }
}

for (const variant of variants) {
  test(`${variant.name}: the graph computes what the native module computes on its weights`, async () => {
    if (nativeIsMissing()) return;
    await withVariant(variant, async (folder) => {
      const config = await readModelConfig(folder);
      const expected = await withModel(loadModel(folder, 1, { dtype: 'float32' }), (native) =>
        logits(native, [50]),
      );
      assert.ok(expected.some((logit) => Math.abs(logit) > 1));
      await withModel(loadOnnxModel(folder, config, 1, variant.name), async (onnx) => {
        for (const chunks of [[50], [20, 29, 1]]) {
          const error = relativeError(await logits(onnx, chunks), expected);
          assert.ok(error < variant.tolerance, `chunks ${chunks}: ${error}`);
        }
      });
    });
  });
}

test('of several graphs the most exact one is taken, another by its name, and nodes that differ in it refuse each other', async () => {
  await withFolder({}, async (folder) => {
    const onnx = path.join(folder, 'onnx');
    await mkdir(onnx);
    const named = async (wanted?: string) => path.basename((await requireOnnxFiles(folder, wanted)).graph);
    assert.is((await errorOf(() => named('q4'))).code, 'BAD_FILE');
    for (const variant of ['model_q4', 'model_fp16', 'model_quantized', 'model_q4f16']) {
      await writeFile(path.join(onnx, `${variant}.onnx`), variant);
    }
    await writeFile(path.join(onnx, 'model_q4.onnx_data'), 'weights');
    assert.is(await named(), 'model_fp16.onnx');
    for (const name of ['q4', 'model_q4', 'model_q4.onnx', 'onnx/model_q4.onnx']) {
      assert.is(await named(name), 'model_q4.onnx');
    }
    const { external } = await requireOnnxFiles(folder, 'q4');
    assert.equal(external, [path.join(onnx, 'model_q4.onnx_data')]);
    const missing = await errorOf(() => named('int4'));
    assert.is(missing.code, 'NOT_FOUND');
    assert.match(
      missing.message,
      /'int4': expected one of model_fp16\.onnx, model_quantized\.onnx, model_q4/,
    );
    const prints = await Promise.all(
      [null, 'fp16', 'q4'].map((onnxFile) => modelFingerprint(folder, 'onnx', { onnxFile })),
    );
    assert.is(prints[0], prints[1]);
    assert.not.equal(prints[2], prints[1]);
  });
});

test('a folder with graphs and no safetensors runs on onnx unless another backend was asked for', async () => {
  await withTinyModel(async (folder) => {
    const auto = chooseBackend({});
    assert.is(await chooseBackendFor(folder, {}), auto);
    await mkdir(path.join(folder, 'onnx'));
    await writeFile(path.join(folder, 'onnx', 'model_q4.onnx'), 'a graph');
    assert.is(await chooseBackendFor(folder, {}), auto);
    assert.is(await chooseBackendFor(folder, { onnxFile: 'q4' }), 'onnx');
    await rm(path.join(folder, 'model.safetensors'));
    assert.is(await chooseBackendFor(folder, {}), 'onnx');
    assert.is(await chooseBackendFor(folder, { backend: 'cpu' }), 'cpu');
    assert.is(await chooseBackendFor('tiny', {}), auto);
  });
});

test('a graph can be named for the onnx backend only', async () => {
  await withTinyModel(async (folder) => {
    const error = await errorOf(() => loadModelFolder(folder, { numThreads: 1, onnxFile: 'q4' }));
    assert.is(error.code, 'INVALID_ARGUMENT');
    assert.match(error.message, /--onnx-file together with --backend onnx/);
  });
});

test.run();
