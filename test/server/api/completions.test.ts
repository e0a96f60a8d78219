// POST /v1/completions: shapes, streams, batches and samples.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Json, text, withApi } from './setup.js';

const path = '/v1/completions';
const greedy = { model: 'tiny', prompt: text, temperature: 0, max_tokens: 8, ignore_eos: true };

test('a completion has the shape that vLLM gives it', async () => {
  await withApi({}, async (api) => {
    const { status, json } = await api.post(path, greedy, { 'x-request-id': 'mine' });
    assert.is(status, 200);
    assert.is(json.id, 'cmpl-mine');
    assert.is(json.object, 'text_completion');
    assert.is(json.model, 'tiny');
    assert.ok(Math.abs(json.created - Date.now() / 1000) < 5);
    const [choice] = json.choices;
    assert.equal(Object.keys(choice), [
      'index',
      'text',
      'logprobs',
      'finish_reason',
      'stop_reason',
      'token_ids',
      'prompt_token_ids',
      'prompt_logprobs',
    ]);
    assert.is(choice.finish_reason, 'length');
    assert.ok(choice.text.length > 8);
    const numPromptTokens = api.engine.tokenizer.encode(text).length;
    assert.equal(json.usage, {
      prompt_tokens: numPromptTokens,
      total_tokens: numPromptTokens + 8,
      completion_tokens: 8,
      prompt_tokens_details: { cached_tokens: 0 },
    });
    assert.is(json.kv_transfer_params, null);
    const again = await api.post(path, greedy);
    assert.is(again.json.choices[0].text, choice.text);
    assert.is(
      again.json.usage.prompt_tokens_details.cached_tokens,
      Math.floor((numPromptTokens - 1) / 16) * 16,
    );
  });
});

test('a stream says the same in pieces and ends with usage when asked', async () => {
  await withApi({}, async (api) => {
    const { json } = await api.post(path, greedy);
    const chunks = await api.stream(path, { ...greedy, stream_options: { include_usage: true } });
    const last = chunks.pop();
    assert.equal(last.choices, []);
    assert.is(last.usage.completion_tokens, 8);
    assert.is(chunks.map((chunk) => chunk.choices[0].text).join(''), json.choices[0].text);
    assert.equal(
      chunks.map((chunk) => chunk.choices[0].finish_reason).filter((reason) => reason !== null),
      ['length'],
    );
    assert.is(chunks.at(-1).choices[0].finish_reason, 'length');
    assert.equal(Object.keys(chunks[0]), ['id', 'object', 'created', 'model', 'choices']);
    assert.is(new Set(chunks.map((chunk) => chunk.id)).size, 1);
    const plain = await api.stream(path, greedy);
    assert.ok(plain.every((chunk) => chunk.choices.length === 1 && chunk.usage === undefined));
    const continuous = await api.stream(path, {
      ...greedy,
      stream_options: { include_usage: true, continuous_usage_stats: true },
    });
    assert.ok(continuous.every((chunk) => chunk.usage.prompt_tokens > 0));
  });
});

test('prompts come as text, token ids and lists of both, each its own choice', async () => {
  await withApi({}, async (api) => {
    const ids = api.engine.tokenizer.encode(text);
    const other = 'the people of the sea';
    const alone = (await api.post(path, { ...greedy, prompt: other })).json.choices[0].text;
    const expected = (await api.post(path, greedy)).json.choices[0].text;
    for (const prompt of [ids, [text], [ids]]) {
      assert.is((await api.post(path, { ...greedy, prompt })).json.choices[0].text, expected);
    }
    const { json } = await api.post(path, { ...greedy, prompt: [text, other] });
    assert.equal(
      json.choices.map((choice: Json) => [choice.index, choice.text]),
      [
        [0, expected],
        [1, alone],
      ],
    );
    assert.is(json.usage.prompt_tokens, ids.length + api.engine.tokenizer.encode(other).length);
    const chunks = await api.stream(path, { ...greedy, prompt: [ids, api.engine.tokenizer.encode(other)] });
    const joined = ['', ''];
    for (const { choices } of chunks) joined[choices[0].index] += choices[0].text;
    assert.equal(joined, [expected, alone]);
  });
});

test('n samples of one prompt differ, count its prompt once, and repeat with the same seed', async () => {
  await withApi({}, async (api) => {
    const body = { ...greedy, temperature: 1, seed: 5, n: 3 };
    const { json } = await api.post(path, body);
    const texts = json.choices.map((choice: Json) => choice.text);
    assert.is(new Set(texts).size, 3);
    assert.is(json.usage.prompt_tokens, api.engine.tokenizer.encode(text).length);
    assert.is(json.usage.completion_tokens, 24);
    const again = await api.post(path, body);
    assert.equal(
      again.json.choices.map((choice: Json) => choice.text),
      texts,
    );
  });
});

test('echo puts the prompt before the answer', async () => {
  await withApi({}, async (api) => {
    const plain = (await api.post(path, greedy)).json.choices[0].text;
    const { json } = await api.post(path, { ...greedy, echo: true });
    assert.is(json.choices[0].text, text + plain);
    const chunks = await api.stream(path, { ...greedy, echo: true });
    assert.is(chunks.map((chunk) => chunk.choices[0].text).join(''), text + plain);
  });
});

test('token ids are returned on request: the prompt once, the answer piece by piece', async () => {
  await withApi({}, async (api) => {
    const { json } = await api.post(path, { ...greedy, return_token_ids: true });
    const [choice] = json.choices;
    assert.equal(choice.prompt_token_ids, api.engine.tokenizer.encode(text));
    assert.is(choice.token_ids.length, 8);
    assert.is(api.engine.tokenizer.decode(choice.token_ids), choice.text);
    const chunks = await api.stream(path, { ...greedy, return_token_ids: true });
    assert.equal(chunks[0].choices[0].prompt_token_ids, choice.prompt_token_ids);
    assert.ok(chunks.slice(1).every((chunk) => chunk.choices[0].prompt_token_ids === null));
    assert.equal(
      chunks.flatMap((chunk) => chunk.choices[0].token_ids),
      choice.token_ids,
    );
  });
});

test('logprobs have one entry a token, with offsets into the text', async () => {
  await withApi({}, async (api) => {
    const { json } = await api.post(path, { ...greedy, logprobs: 2 });
    const { text: answer, logprobs } = json.choices[0];
    assert.is(logprobs.tokens.length, 8);
    assert.is(logprobs.tokens.join(''), answer);
    assert.equal(
      logprobs.text_offset.map((offset: number, i: number) =>
        answer.slice(offset, offset + logprobs.tokens[i].length),
      ),
      logprobs.tokens,
    );
    for (const [i, top] of logprobs.top_logprobs.entries()) {
      assert.is(Object.keys(top).length, 2);
      assert.is(top[logprobs.tokens[i]], logprobs.token_logprobs[i]);
    }
    const chunks = await api.stream(path, { ...greedy, logprobs: 2 });
    assert.equal(
      chunks.flatMap((chunk) => chunk.choices[0].logprobs.text_offset),
      logprobs.text_offset,
    );
  });
});

test('stop strings, stop token ids, min_tokens and a bias reach the sampler', async () => {
  await withApi({}, async (api) => {
    const { json } = await api.post(path, { ...greedy, return_token_ids: true });
    const { text: answer, token_ids: ids } = json.choices[0];
    const stop = answer.slice(10, 14);
    const stopped = (await api.post(path, { ...greedy, stop })).json.choices[0];
    assert.equal(
      [stopped.text, stopped.finish_reason, stopped.stop_reason],
      [answer.split(stop)[0], 'stop', stop],
    );
    const byId = (await api.post(path, { ...greedy, stop_token_ids: [ids[3]] })).json.choices[0];
    assert.equal([byId.finish_reason, byId.stop_reason], ['stop', ids[3]]);
    const later = await api.post(path, { ...greedy, stop_token_ids: [ids[3]], min_tokens: 6 });
    assert.ok(later.json.usage.completion_tokens >= 6);
    const biased = await api.post(path, { ...greedy, logit_bias: { [ids[5]]: 100 }, return_token_ids: true });
    assert.equal(biased.json.choices[0].token_ids, new Array(8).fill(ids[5]));
  });
});

test('a call without max_tokens generates 16, or what is left of the context', async () => {
  await withApi({ scheduler: { maxModelLen: 64 } }, async (api) => {
    const { max_tokens: _, ...body } = greedy;
    assert.is((await api.post(path, { ...body, prompt: [300, 301] })).json.usage.completion_tokens, 16);
    const prompt = new Array(60).fill(300);
    assert.is((await api.post(path, { ...body, prompt })).json.usage.completion_tokens, 4);
  });
});

test('the ledger comes with the body, and with the chunk that finishes', async () => {
  await withApi({}, async (api) => {
    const { json } = await api.post(path, { ...greedy, return_prefill_stats: true });
    const numPromptTokens = json.usage.prompt_tokens;
    assert.is(json.prefill_stats.num_prompt_tokens, numPromptTokens);
    assert.is(json.prefill_stats.ledger.new, numPromptTokens);
    const chunks = await api.stream(path, { ...greedy, return_prefill_stats: true });
    const withStats = chunks.filter((chunk) => chunk.prefill_stats);
    assert.is(withStats.length, 1);
    assert.is(withStats[0].choices[0].finish_reason, 'length');
    assert.ok(withStats[0].prefill_stats.ledger.local_hit > 0);
  });
});

test.run();
