// --dtype and --quantization: nodes whose weights differ refuse each other's KV, and an exported decoder has no choice.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { modelFingerprint } from '../../src/engine/model-fingerprint.js';
import { loadModelFolder } from '../../src/model/model-folder.js';
import { resolveWeights, type WeightChoice } from '../../src/model/native-model.js';
import { nativeIsMissing } from '../model/greedy-answers.js';
import { errorOf, withTinyModel } from '../model/model-folders.js';

test('the fingerprint tells weights apart, and auto is what it comes to here', async () => {
  if (nativeIsMissing()) return;
  await withTinyModel(async (folder) => {
    const fingerprint = (choice: WeightChoice) => modelFingerprint(folder, 'cpu', choice);
    const all = await Promise.all([
      fingerprint({ dtype: 'float32' }),
      fingerprint({ dtype: 'bfloat16' }),
      fingerprint({ dtype: 'bfloat16', quantization: 'int8' }),
    ]);
    assert.is(new Set(all).size, 3);
    const { dtype } = resolveWeights({}, 'cpu');
    assert.is(await fingerprint({}), await fingerprint({ dtype }));
    const onGpu = (choice: WeightChoice) => modelFingerprint(folder, 'cuda', choice);
    assert.is(await onGpu({}), await onGpu({ dtype: 'bfloat16' }));
    assert.is(new Set([...all, await onGpu({}), await onGpu({ dtype: 'float16' })]).size, 5);
  });
});

test('a choice of weights is refused on the onnx backend, naming what was chosen', async () => {
  await withTinyModel(async (folder) => {
    const wrong: [WeightChoice, RegExp, string][] = [
      [{ dtype: 'bfloat16' }, /Expected dtype to be auto .* but received bfloat16/, 'dtype'],
      [{ quantization: 'int8' }, /Expected quantization to be none .* but received int8/, 'quantization'],
    ];
    for (const [choice, message, param] of wrong) {
      const error = await errorOf(() =>
        loadModelFolder(folder, { backend: 'onnx', numThreads: 1, ...choice }),
      );
      assert.is(error.code, 'INVALID_ARGUMENT');
      assert.is(error.param, param);
      assert.match(error.message, message);
    }
  });
});

test.run();
