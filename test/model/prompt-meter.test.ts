// What a token's KV weighs, without running a model.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { openPromptMeter } from '../../src/model/prompt-meter.js';
import { loadNative } from '../../src/native.js';

const bytesPerToken = async (model: string, dtype: Parameters<typeof openPromptMeter>[1]) =>
  (await openPromptMeter(model, dtype)).kv.bytes_per_token;

test('KV of a published shape has the bytes of each number type', async () => {
  // Llama-3.1-8B: 32 layers, 8 KV heads of 128.
  const elements = 32 * 2 * 8 * 128;
  assert.is(await bytesPerToken('llama-3.1-8b', 'float32'), 4 * elements);
  assert.is(await bytesPerToken('llama-3.1-8b', 'bfloat16'), 2 * elements);
  assert.is(await bytesPerToken('llama-3.1-8b', 'float16'), 2 * elements);
  assert.is(await bytesPerToken('llama-3.1-8b', 'fp8'), elements);
  assert.is(await bytesPerToken('llama-3.1-8b', 'auto'), 2 * elements);
});

test('KV of a model that runs here has the type that it is kept as here', async () => {
  const { kv } = await openPromptMeter('tiny', 'auto', 'cpu');
  assert.is(kv.dtype, loadNative().defaultDtype);
  assert.is((await openPromptMeter('tiny', 'auto', 'onnx')).kv.dtype, 'float32');
  assert.is((await openPromptMeter('tiny', 'auto', 'cuda')).kv.dtype, 'bfloat16');
  assert.is((await openPromptMeter('tiny', 'float32', 'cpu')).kv.bytes_per_token, 2 * 512);
});

test('a token of the template is counted once, whatever is said', async () => {
  const { count, templateTokens } = await openPromptMeter('tiny', 'auto');
  const one = templateTokens(['user']);
  assert.ok(one > 0);
  assert.ok(templateTokens(['user', 'assistant', 'user']) > one);
  assert.is(templateTokens(['user']), one);
  assert.is(count(''), 0);
});

test.run();
