// generation_config.json: end tokens, suppressed tokens, sampling defaults.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readGenerationConfig } from '../../src/model/generation-config.js';
import { errorOf, withFolder } from './model-folders.js';

const config = { vocabSize: 100, eosTokenIds: [7] };
const read = (file: object) =>
  withFolder({ 'generation_config.json': file }, (folder) => readGenerationConfig(folder, config));

test('without the file, end tokens come from config.json and nothing else is set', async () => {
  const found = await withFolder({}, (folder) => readGenerationConfig(folder, config));
  assert.equal(found, { eosTokenIds: [7], suppressTokens: [] });
});

test('the file sets end tokens, suppressed tokens and sampling defaults', async () => {
  const file = {
    eos_token_id: [3, 4],
    suppress_tokens: [9, 1, 9],
    temperature: 0.6,
    top_p: 0.9,
    top_k: 20,
    min_p: 0,
    repetition_penalty: 1.05,
    do_sample: true,
  };
  assert.equal(await read(file), {
    eosTokenIds: [3, 4],
    suppressTokens: [1, 9],
    temperature: 0.6,
    topP: 0.9,
    topK: 20,
    minP: 0,
    repetitionPenalty: 1.05,
  });
});

test('null means absent, and a top_k of -1 means all', async () => {
  assert.equal(await read({ temperature: null, top_k: -1, eos_token_id: null }), {
    eosTokenIds: [7],
    suppressTokens: [],
    topK: 0,
  });
});

test('defaults may come from another folder, or from nowhere; what ends and what is never said stays', async () => {
  const file = { eos_token_id: 3, suppress_tokens: [9], temperature: 0.6, top_k: 20, max_new_tokens: 5 };
  const endings = { eosTokenIds: [3], suppressTokens: [9] };
  const other = { eos_token_id: 4, temperature: 0.2, max_new_tokens: 50 };
  await withFolder(
    { 'generation_config.json': file, 'other/generation_config.json': other },
    async (folder) => {
      const choose = (source: string, overrides = {}) =>
        readGenerationConfig(folder, config, { source, overrides });
      // max_new_tokens of the model's own file is no limit.
      assert.equal(await choose('auto'), { ...endings, temperature: 0.6, topK: 20 });
      assert.equal(await choose('vllm'), endings);
      const elsewhere = { ...endings, temperature: 0.2, maxNewTokens: 50 };
      assert.equal(await choose(`${folder}/other`), elsewhere);
      const overrides = { temperature: 0, max_new_tokens: 7, min_p: null };
      assert.equal(await choose('auto', overrides), {
        ...endings,
        temperature: 0,
        topK: 20,
        maxNewTokens: 7,
      });
      const missing = await errorOf(() => choose('/nowhere'));
      assert.equal([missing.code, missing.param], ['NOT_FOUND', 'generation-config']);
      for (const [wrong, message] of [
        [{ temperature: -1 }, /temperature: /],
        [{ tempreature: 1 }, /tempreature/],
        [{ eos_token_id: 1 }, /eos_token_id/],
      ] as const) {
        const error = await errorOf(() => choose('auto', wrong));
        assert.equal([error.code, error.param], ['INVALID_ARGUMENT', 'override-generation-config']);
        assert.match(error.message, message);
      }
    },
  );
});

const refusals: readonly (readonly [file: object, message: RegExp])[] = [
  [{ temperature: 'hot' }, /field 'temperature'/],
  [{ top_p: 2 }, /field 'top_p'/],
  [{ repetition_penalty: 0 }, /field 'repetition_penalty'/],
  [{ suppress_tokens: [100] }, /names token 100, but the vocabulary has 100 tokens/],
  [{ eos_token_id: 1000 }, /names token 1000/],
  [{ suppress_tokens: Array.from({ length: 100 }, (_, id) => id) }, /suppresses every token/],
];

for (const [file, message] of refusals) {
  test(`a file with ${JSON.stringify(file).slice(0, 40)} is refused`, async () => {
    const error = await errorOf(() => read(file));
    assert.is(error.code, 'BAD_FILE');
    assert.match(error.message, message);
  });
}

test.run();
