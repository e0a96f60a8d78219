// A proxy with prefill and decode nodes answers every supported field as one node does, whichever way KV moves.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { EngineOptions } from '../../../src/engine-options.js';
import { withCluster } from '../../with-cluster.js';
import {
  type Effects,
  effectsOnChats,
  effectsOnCompletions,
  parseAnswer,
  requestsOf,
} from '../api/field-effects.js';
import { type Json, text, withApi } from '../api/setup.js';

const texts = { end: 4353, word: 'baba' };

interface Asked {
  readonly name: string;
  readonly path: string;
  readonly body: object;
}

/** What a proxy drops on purpose, and what is about one node. */
const ownToNodes = ['kv_transfer_params', 'return_prefill_stats', 'session_id', 'conversation_id'];

function requests(path: string, prompt: object, effects: Effects): Asked[] {
  return Object.entries(effects)
    .filter(([name]) => !ownToNodes.includes(name))
    .flatMap(([name, effect]) =>
      requestsOf(name, effect).map((fields) => ({ name, path, body: { ...prompt, ...fields } })),
    );
}

const all = [
  ...requests('/v1/completions', { prompt: text }, effectsOnCompletions(texts)),
  ...requests('/v1/chat/completions', { messages: [{ role: 'user', content: text }] }, effectsOnChats(texts)),
];

/** An answer without what must differ from call to call, and a stream as what its chunks say together. */
function sameInAll(body: string, { name }: Asked): Json {
  const { chunks, ...answer } = parseAnswer(body);
  const { id, created, kv_transfer_params, ...rest } = answer;
  const said = { ...rest, ...(id?.endsWith('-mine') && { id }) };
  if (said.usage) delete said.usage.prompt_tokens_details;
  if (!chunks) return said;
  const choices = chunks.flatMap((chunk: Json) => chunk.choices);
  const join = (part: (choice: Json) => unknown) => choices.flatMap(part);
  return {
    text: join((choice) => choice.text ?? choice.delta.content).join(''),
    tokenIds: join((choice) => choice.token_ids ?? []),
    promptTokenIds: chunks[0].prompt_token_ids ?? chunks[0].choices[0].prompt_token_ids,
    ending: choices.at(-1).finish_reason,
    completionTokens: chunks.at(-1).usage?.completion_tokens,
    numChunks: name === 'stream_interval' ? chunks.length : null,
  };
}

async function answersOf(ask: (asked: Asked) => Promise<string>): Promise<string[]> {
  const answers: string[] = [];
  for (const asked of all) {
    answers.push(`${asked.path} ${asked.name} ${JSON.stringify(sameInAll(await ask(asked), asked))}`);
  }
  return answers;
}

const ways: readonly (readonly [string, EngineOptions])[] = [
  ['uni', { kvTransfer: { mode: 'uni' } }],
  ['bi', { kvTransfer: { mode: 'bi' } }],
  ['bi by tickets', { kvTransfer: { mode: 'bi', lookup: 'ticket' } }],
  ['bi, the first token from D', { kvTransfer: { mode: 'bi', firstToken: 'decode' } }],
];

let alone: readonly string[] = [];

function assertSame(answers: readonly string[]): void {
  assert.is(answers.length, alone.length);
  for (const [i, answer] of answers.entries()) assert.is(answer, alone[i]);
}

test('alone, a node answers the same requests the same way twice', async () => {
  await withApi({}, async (api) => {
    const ask = async ({ path, body }: Asked) => (await api.post(path, body)).text;
    alone = await answersOf(ask);
    assertSame(await answersOf(ask));
  });
});

for (const [way, engine] of ways) {
  test(`${way}: every field has the effect that it has on one node`, async () => {
    await withCluster({ engine }, async (cluster) => {
      const answers = await answersOf(async ({ path, body }) => (await cluster.post(path, body)).text());
      assertSame(answers);
      await cluster.assertWhole();
    });
  });
}

test.run();
