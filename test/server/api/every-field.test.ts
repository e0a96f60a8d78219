// Every supported field of both endpoints changes something that a client can see: with it the answer is another one.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { z } from 'zod';
import { tokenizerJson } from '../../../src/model/default-vocabulary.js';
import { chatCompletionSchema, completionSchema } from '../../../src/server/api/openai-schema.js';
import { fieldInfo } from '../../../src/server/api/request-field.js';
import {
  type Effects,
  effectsOnChats,
  effectsOnCompletions,
  parseAnswer,
  requestsOf,
  said,
} from './field-effects.js';
import { type TestApi, tellingTemplate, text, withModelFiles } from './setup.js';

/** Fields whose effect was not seen. */
async function withoutEffect(
  api: TestApi,
  path: string,
  prompt: object,
  effects: Effects,
): Promise<string[]> {
  const missing: string[] = [];
  for (const [name, effect] of Object.entries(effects)) {
    const { before, sees = said } = effect;
    const seen: string[] = [];
    for (const fields of requestsOf(name, effect)) {
      const body = { ...prompt, ...fields };
      if (before) await api.post(path, { ...body, ...before });
      seen.push(JSON.stringify(sees(parseAnswer((await api.post(path, body)).text))) ?? 'nothing');
    }
    if (seen[0] === seen[1]) missing.push(`${name}: ${seen[0]}`);
  }
  return missing;
}

function supportedFields({ shape }: { readonly shape: Readonly<Record<string, z.ZodType>> }): string[] {
  return Object.keys(shape).filter((name) => fieldInfo(shape[name]!).support === 'yes');
}

/** A tokenizer that begins texts with a special token, and a template that tells what it is given. */
const files = {
  'tokenizer.json': JSON.stringify({
    ...tokenizerJson(),
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<|pad|>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '<|pad|>': { id: '<|pad|>', ids: [4352], tokens: ['<|pad|>'] } },
    },
  }),
  'chat_template.jinja': `${tellingTemplate}{% if add_generation_prompt %}assistant:{% endif %}`,
};

test('every supported field is listed here', () => {
  const texts = { end: 0, word: '' };
  for (const [schema, effects] of [
    [completionSchema, effectsOnCompletions(texts)],
    [chatCompletionSchema, effectsOnChats(texts)],
  ] as const) {
    assert.equal(Object.keys(effects).sort(), supportedFields(schema).sort());
  }
});

test('each field of both endpoints changes the answer that it is there to change', async () => {
  await withModelFiles(files, async (api) => {
    const { generationConfig, tokenizer } = api.engine;
    const texts = { end: generationConfig.eosTokenIds[0]!, word: tokenizer.decode([300]).trim() };
    const messages = [{ role: 'user', content: text }];
    assert.equal(
      await withoutEffect(api, '/v1/completions', { prompt: text }, effectsOnCompletions(texts)),
      [],
    );
    assert.equal(await withoutEffect(api, '/v1/chat/completions', { messages }, effectsOnChats(texts)), []);
  });
});

test.run();
