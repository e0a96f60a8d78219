// Encoding long prompts on a thread of its own.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../../src/errors.js';
import { resolveModel } from '../../../src/model/resolve-model.js';
import { Tokenizer } from '../../../src/model/tokenizer.js';
import { PromptEncoder } from '../../../src/server/api/prompt-encoder.js';
import { prompt } from '../../engine/test-engine.js';
import { withApi } from './setup.js';

const modelPath = await resolveModel('tiny');
const tokenizer = await Tokenizer.load(modelPath);

async function withEncoder(
  maxTokens: number,
  body: (encoder: PromptEncoder) => Promise<void>,
): Promise<void> {
  const encoder = new PromptEncoder({ tokenizer, modelPath, maxTokens });
  try {
    await body(encoder);
  } finally {
    await encoder.close();
  }
}

test('short and long texts become the same tokens as without the encoder, here and on the thread', async () => {
  await withEncoder(100_000, async (encoder) => {
    for (const numTokens of [1, 10, 2000, 30_000, 60_000]) {
      const text = tokenizer.decode(prompt(numTokens));
      for (const addSpecialTokens of [true, false]) {
        const tokenIds = await encoder.encode(text, addSpecialTokens);
        assert.equal(tokenIds, tokenizer.encode(text, { addSpecialTokens }));
      }
    }
  });
});

test('a very long text does not hold up the event loop', async () => {
  const text = tokenizer.decode(prompt(100_000));
  const startedMs = performance.now();
  tokenizer.encode(text);
  const encodeMs = performance.now() - startedMs;
  await withEncoder(1_000_000, async (encoder) => {
    const encoding = encoder.encode(text, true);
    let longestGapMs = 0;
    let isDone = false;
    const watching = (async () => {
      while (!isDone) {
        const begun = performance.now();
        await new Promise(setImmediate);
        longestGapMs = Math.max(longestGapMs, performance.now() - begun);
      }
    })();
    const { length } = await encoding;
    isDone = true;
    await watching;
    assert.is(length, 100_000);
    // Copying the result takes a fraction of what encoding takes.
    assert.ok(longestGapMs < encodeMs / 2, `${longestGapMs} of ${encodeMs} ms`);
  });
});

test('the same text is encoded once', async () => {
  const text = tokenizer.decode(prompt(5000));
  await withEncoder(100_000, async (encoder) => {
    assert.is(await encoder.encode(text, true), await encoder.encode(text, true));
  });
});

test('a text that no context can hold is refused without being encoded, and again the next time', async () => {
  const text = 'a'.repeat(20_000_000);
  await withEncoder(100, async (encoder) => {
    for (let i = 0; i < 2; i++) {
      try {
        await encoder.encode(text, true);
        assert.unreachable();
      } catch (error) {
        assert.instance(error, VllmPdError);
        assert.is((error as VllmPdError).code, 'PROMPT_TOO_LONG');
        assert.match((error as VllmPdError).message, /20000000/);
      }
    }
  });
});

test('a thread that ends fails no request: its texts are encoded here', async () => {
  const text = tokenizer.decode(prompt(5000));
  const expected = tokenizer.encode(text);
  const fresh = await Tokenizer.load(modelPath);
  const encoder = new PromptEncoder({
    tokenizer: fresh,
    modelPath: `${modelPath}-that-is-gone`,
    maxTokens: 100_000,
  });
  try {
    assert.equal(await Promise.all([encoder.encode(text, true), encoder.encode(text, true)]), [
      expected,
      expected,
    ]);
  } finally {
    await encoder.close();
  }
});

test('a closing encoder gives up what its thread has not finished', async () => {
  const text = tokenizer.decode(prompt(60_000));
  const encoder = new PromptEncoder({
    tokenizer: await Tokenizer.load(modelPath),
    modelPath,
    maxTokens: 100_000,
  });
  const encoding = encoder.encode(text, true).then(
    () => 'encoded',
    (error: VllmPdError) => error.code,
  );
  await encoder.close();
  assert.is(await encoding, 'OVERLOADED');
});

test('a conversation whose history is known does not need the thread', async () => {
  const fresh = await Tokenizer.load(modelPath);
  const encoder = new PromptEncoder({
    tokenizer: fresh,
    modelPath: `${modelPath}-that-is-gone`,
    maxTokens: 100_000,
  });
  let text = '';
  for (let turn = 0; turn < 40; turn++) {
    text += `<|user|>${tokenizer.decode(prompt(200, turn))}<|end|>`;
    assert.equal(await encoder.encode(text, false), tokenizer.encode(text, { addSpecialTokens: false }));
  }
  assert.is(fresh.numUnknownCharacters(text, { addSpecialTokens: false }), 0);
  await encoder.close();
});

test('a long prompt goes through the server as text', async () => {
  await withApi({}, async (api) => {
    const ids = prompt(1500);
    const body = { temperature: 0, max_tokens: 4 };
    const asText = { ...body, prompt: tokenizer.decode(ids) };
    const first = await api.post('/v1/completions', asText);
    const second = await api.post('/v1/completions', asText);
    const asIds = await api.post('/v1/completions', { ...body, prompt: ids });
    assert.is(first.json.usage.prompt_tokens, 1500);
    assert.is(second.json.choices[0].text, first.json.choices[0].text);
    assert.is(asIds.json.choices[0].text, first.json.choices[0].text);
    const tooLong = await api.post('/v1/completions', { prompt: 'a b '.repeat(5_000_000) });
    assert.equal([tooLong.status, tooLong.json.error.param], [400, 'prompt']);
  });
});

test.run();
