// Log probabilities of the prompt over HTTP: `prompt_logprobs` of both endpoints, and `echo` with `logprobs`.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Json, tellingTemplate, text, withApi, withModelFiles } from './setup.js';

const path = '/v1/completions';
const chat = '/v1/chat/completions';
const greedy = { prompt: text, temperature: 0, max_tokens: 8, ignore_eos: true };
const messages = [{ role: 'user', content: text }];

test('prompt_logprobs have an object by token id for each token but the first', async () => {
  await withApi({}, async (api) => {
    const ids = api.engine.tokenizer.encode(text);
    const { json } = await api.post(path, { ...greedy, prompt_logprobs: 2 });
    const { prompt_logprobs: scores, logprobs } = json.choices[0];
    assert.is(logprobs, null);
    assert.is(scores.length, ids.length);
    assert.is(scores[0], null);
    for (const [i, score] of scores.slice(1).entries()) {
      const own = score[ids[i + 1]!];
      assert.equal(Object.keys(own), ['logprob', 'rank', 'decoded_token']);
      assert.is(own.decoded_token, api.engine.tokenizer.decode([ids[i + 1]!]));
      const entries: Json[] = Object.values(score);
      assert.is(entries.length, own.rank > 2 ? 3 : 2);
      const ranked = entries.sort((a, b) => a.rank - b.rank);
      assert.equal(
        ranked.slice(0, 2).map(({ rank }) => rank),
        [1, 2],
      );
      assert.ok(ranked.every((entry, at) => at === 0 || entry.logprob <= ranked[at - 1].logprob));
    }
    assert.is(json.usage.prompt_tokens_details.cached_tokens, 0);
    const again = await api.post(path, { ...greedy, prompt_logprobs: 0 });
    assert.is(again.json.usage.prompt_tokens_details.cached_tokens, 0);
    assert.is(again.json.choices[0].text, json.choices[0].text);
    const own = again.json.choices[0].prompt_logprobs.slice(1);
    assert.equal(
      own,
      ids.slice(1).map((id, i) => ({ [id]: scores[i + 1][id] })),
    );
    assert.is((await api.post(path, greedy)).json.choices[0].prompt_logprobs, null);
  });
});

test("a chat's prompt_logprobs stand beside its choices, with echo as many as top_logprobs", async () => {
  await withApi({}, async (api) => {
    const body = { messages, temperature: 0, max_tokens: 4 };
    const { json } = await api.post(chat, { ...body, prompt_logprobs: 1, return_token_ids: true });
    assert.is(json.prompt_logprobs.length, json.prompt_token_ids.length);
    assert.is(json.prompt_logprobs[0], null);
    assert.ok(
      json.prompt_logprobs.slice(1).every((score: Json, i: number) => score[json.prompt_token_ids[i + 1]]),
    );
    const echoed = await api.post(chat, { ...body, echo: true, logprobs: true, top_logprobs: 1 });
    assert.equal(echoed.json.prompt_logprobs, json.prompt_logprobs);
    assert.is((await api.post(chat, { ...body, echo: true })).json.prompt_logprobs, null);
  });
});

test('echo with logprobs has those of the prompt first, over the echoed text', async () => {
  await withApi({}, async (api) => {
    const ids = api.engine.tokenizer.encode(text);
    const plain = (await api.post(path, { ...greedy, logprobs: 2 })).json.choices[0];
    const { json } = await api.post(path, { ...greedy, logprobs: 2, echo: true, return_token_ids: true });
    const [choice] = json.choices;
    const { tokens, token_logprobs, top_logprobs, text_offset } = choice.logprobs;
    assert.is(choice.text, text + plain.text);
    assert.is(tokens.join(''), choice.text);
    assert.equal(
      text_offset.map((offset: number, i: number) => choice.text.slice(offset, offset + tokens[i].length)),
      tokens,
    );
    assert.equal([tokens.length, choice.token_ids.length], [ids.length + 8, 8]);
    assert.equal([token_logprobs[0], top_logprobs[0]], [null, null]);
    assert.equal(token_logprobs.slice(ids.length), plain.logprobs.token_logprobs);
    assert.equal(top_logprobs.slice(ids.length), plain.logprobs.top_logprobs);
    for (let i = 1; i < tokens.length; i++) {
      assert.is(top_logprobs[i][tokens[i]], token_logprobs[i]);
      assert.ok([2, 3].includes(Object.keys(top_logprobs[i]).length));
    }
    assert.equal(
      choice.prompt_logprobs.slice(1).map((score: Json, i: number) => score[ids[i + 1]!].logprob),
      token_logprobs.slice(1, ids.length),
    );
    const named = await api.post(path, {
      ...greedy,
      logprobs: 0,
      echo: true,
      return_tokens_as_token_ids: true,
    });
    assert.equal(
      named.json.choices[0].logprobs.tokens.slice(0, ids.length),
      ids.map((id) => `token_id:${id}`),
    );
    const more = await api.post(path, { ...greedy, logprobs: 1, echo: true, prompt_logprobs: 4 });
    const [{ logprobs, prompt_logprobs: scores }] = more.json.choices;
    assert.ok(logprobs.top_logprobs.slice(1).every((top: object) => Object.keys(top).length <= 2));
    assert.ok(scores.slice(1).every((score: object) => Object.keys(score).length >= 4));
  });
});

test("a stream's first chunk has the prompt's part", async () => {
  await withApi({ scheduler: { maxNumBatchedTokens: 16 } }, async (api) => {
    const body = { ...greedy, logprobs: 2, echo: true };
    const whole = (await api.post(path, body)).json.choices[0];
    const chunks = await api.stream(path, body);
    const parts = chunks.map((chunk) => chunk.choices[0]);
    const numPromptTokens = api.engine.tokenizer.encode(text).length;
    assert.is(parts[0].logprobs.tokens.length, numPromptTokens + 1);
    assert.is(parts.map((part) => part.text).join(''), whole.text);
    for (const field of ['tokens', 'token_logprobs', 'top_logprobs', 'text_offset']) {
      assert.equal(
        parts.flatMap((part) => part.logprobs[field]),
        whole.logprobs[field],
      );
    }
    const slow = await api.stream(path, { ...body, stream_interval: 5 });
    assert.equal(
      slow.flatMap((chunk) => chunk.choices[0].logprobs.tokens),
      whole.logprobs.tokens,
    );
    // vLLM takes this, whose chunks have no place for it.
    const zero = await api.stream(path, { ...greedy, prompt_logprobs: 0 });
    assert.ok(zero.every((chunk) => !('prompt_logprobs' in chunk.choices[0])));
  });
});

test('max_tokens 0 with echo answers with the prompt alone', async () => {
  await withApi({}, async (api) => {
    const ids = api.engine.tokenizer.encode(text);
    const body = { ...greedy, max_tokens: 0, echo: true, return_token_ids: true };
    const scored = (await api.post(path, { ...greedy, echo: true, logprobs: 1 })).json.choices[0].logprobs;
    const { json } = await api.post(path, { ...body, logprobs: 1, n: 2 });
    for (const choice of json.choices) {
      assert.equal([choice.text, choice.finish_reason, choice.stop_reason], [text, 'length', null]);
      assert.equal([choice.token_ids, choice.prompt_token_ids], [[], ids]);
      assert.equal(choice.logprobs.token_logprobs, scored.token_logprobs.slice(0, ids.length));
    }
    assert.equal([json.usage.completion_tokens, json.usage.prompt_tokens], [0, ids.length]);
    const plain = (await api.post(path, body)).json.choices[0];
    assert.equal([plain.text, plain.logprobs], [text, null]);
    const stopped = await api.post(path, {
      ...body,
      ignore_eos: false,
      allowed_token_ids: api.engine.generationConfig.eosTokenIds,
    });
    assert.is(stopped.json.choices[0].finish_reason, 'length');
    const chunks = await api.stream(path, { ...body, logprobs: 1 });
    assert.is(chunks.length, 1);
    const [{ text: said, finish_reason: reason, logprobs }] = chunks[0].choices;
    assert.equal([said, reason, logprobs.tokens.length], [text, 'length', ids.length]);
    // As evaluation harnesses ask: what is left of the context is one token.
    const long = { prompt: new Array(api.engine.maxModelLen - 1).fill(300), max_tokens: 0, echo: true };
    assert.is((await api.post(path, { ...long, logprobs: 1 })).status, 200);
  });
});

test('samples share one scored prompt, and every prompt of a batch has its own', async () => {
  await withApi({}, async (api) => {
    const other = 'the people of the sea';
    const scoresOf = async (prompt: string) =>
      (await api.post(path, { ...greedy, prompt, echo: true, logprobs: 1 })).json.choices[0].prompt_logprobs;
    const expected = [await scoresOf(text), await scoresOf(other)];
    const body = { ...greedy, prompt: [text, other], n: 2, temperature: 1, seed: 5, echo: true, logprobs: 1 };
    const { json } = await api.post(path, body);
    assert.equal(
      json.choices.map((choice: Json) => choice.prompt_logprobs),
      [expected[0], expected[0], expected[1], expected[1]],
    );
    const answers = json.choices.map((choice: Json) => [choice.text, choice.logprobs.token_logprobs]);
    assert.is(new Set(answers.map(([said]: Json) => said)).size, 4);
    const chunks = await api.stream(path, body);
    const joined = answers.map(() => ['', [] as number[]]);
    for (const { choices } of chunks) {
      const [{ index, text: said, logprobs }] = choices;
      joined[index]![0] += said;
      (joined[index]![1] as number[]).push(...logprobs.token_logprobs);
    }
    assert.equal(joined, answers);
    const plain = (await api.post(path, { ...greedy, n: 2, temperature: 1, seed: 5 })).json.choices;
    assert.equal(
      answers.slice(0, 2).map(([said]: Json) => said),
      plain.map((choice: Json) => text + choice.text),
    );
    const chats = await api.post(chat, { messages, n: 2, max_tokens: 2, prompt_logprobs: 1 });
    assert.is(chats.json.prompt_logprobs[0], null);
  });
});

test('a likelihood of a continuation is the sum over its tokens, as evaluation harnesses form it', async () => {
  await withApi({}, async (api) => {
    const context = api.engine.tokenizer.encode(text);
    const answer = (await api.post(path, { ...greedy, logprobs: 1, return_token_ids: true })).json.choices[0];
    const other = answer.token_ids.map((id: number) => id + 1);
    // Token ids, one token more than is wanted, and a batch of continuations of one context.
    const prompt = [answer.token_ids, other].map((ids) => [...context, ...ids]);
    const { json } = await api.post(path, {
      prompt,
      echo: true,
      logprobs: 1,
      max_tokens: 1,
      temperature: 0,
      seed: 1234,
    });
    const results = json.choices.map(({ logprobs }: Json) => {
      const own: number[] = logprobs.token_logprobs.slice(context.length, -1);
      const best: number[] = logprobs.top_logprobs
        .slice(context.length, -1)
        .map((top: Record<string, number>) => Math.max(...Object.values(top)));
      return {
        likelihood: own.reduce((sum, one) => sum + one, 0),
        isGreedy: own.every((one, i) => one === best[i]),
      };
    });
    const expected = answer.logprobs.token_logprobs.reduce((sum: number, one: number) => sum + one, 0);
    assert.equal(results[0], { likelihood: expected, isGreedy: true });
    assert.is(results[1].isGreedy, false);
    assert.ok(results[1].likelihood < expected);
  });
});

test('a token that the model never says is as unlikely as JSON can tell', async () => {
  const files = { 'chat_template.jinja': tellingTemplate };
  await withModelFiles(files, async (api) => {
    const [end] = api.engine.generationConfig.suppressTokens;
    const { json } = await api.post(path, { ...greedy, prompt: [300, end, 301], prompt_logprobs: 1 });
    const [, score, next] = json.choices[0].prompt_logprobs;
    assert.is(score[end!].logprob, -9999);
    assert.ok(next[301].logprob > -100);
  });
});

test.run();
