// POST /v1/chat/completions: shapes, streams and history.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { text, withApi } from './setup.js';

const path = '/v1/chat/completions';
const messages = [
  { role: 'system', content: 'be kind' },
  { role: 'user', content: text },
];
const greedy = { messages, temperature: 0, max_tokens: 8, ignore_eos: true };

test('a chat answer has the shape that vLLM gives it', async () => {
  await withApi({}, async (api) => {
    const { status, json } = await api.post(path, { ...greedy, request_id: 'mine' });
    assert.is(status, 200);
    assert.is(json.id, 'chatcmpl-mine');
    assert.is(json.object, 'chat.completion');
    const [choice] = json.choices;
    assert.is(choice.message.role, 'assistant');
    assert.type(choice.message.content, 'string');
    assert.is(choice.finish_reason, 'length');
    assert.is(choice.logprobs, null);
    assert.is(json.usage.completion_tokens, 8);
    assert.is(json.usage.prompt_tokens, api.engine.chatTemplate.encodeChat(messages).length);
  });
});

test('a stream begins with the role and ends with the reason, a delta in every chunk', async () => {
  await withApi({}, async (api) => {
    const { json } = await api.post(path, greedy);
    const chunks = await api.stream(path, { ...greedy, return_prefill_stats: true });
    assert.equal(chunks[0].choices[0].delta, { role: 'assistant', content: '' });
    assert.is(chunks[0].object, 'chat.completion.chunk');
    assert.ok(chunks.every((chunk) => chunk.choices[0].delta));
    assert.is(
      chunks.map((chunk) => chunk.choices[0].delta.content).join(''),
      json.choices[0].message.content,
    );
    const last = chunks.at(-1);
    assert.is(last.choices[0].finish_reason, 'length');
    assert.is(last.prefill_stats.num_prompt_tokens, json.usage.prompt_tokens);
  });
});

test('content may come as a list of text parts', async () => {
  await withApi({}, async (api) => {
    const parts = messages.map(({ role, content }) => ({ role, content: [{ type: 'text', text: content }] }));
    const plain = await api.post(path, greedy);
    const { json } = await api.post(path, { ...greedy, messages: parts });
    assert.is(json.choices[0].message.content, plain.json.choices[0].message.content);
  });
});

test('an answer that is sent back as history is found in the cache', async () => {
  await withApi({}, async (api) => {
    const first = await api.post(path, { ...greedy, max_tokens: 40 });
    const { message } = first.json.choices[0];
    const history = [...messages, message, { role: 'user', content: 'and then' }];
    const second = await api.post(path, { ...greedy, messages: history, return_prefill_stats: true });
    const { prompt_tokens, completion_tokens } = first.json.usage;
    const computed = prompt_tokens + completion_tokens - 1;
    assert.is(second.json.prefill_stats.ledger.local_hit, computed - (computed % 16));
    assert.is(second.json.usage.prompt_tokens_details.cached_tokens, computed - (computed % 16));
  });
});

test('without a limit a chat answer takes the rest of the context', async () => {
  await withApi({ scheduler: { maxModelLen: 100 } }, async (api) => {
    const { max_tokens: _, ...body } = greedy;
    const { json } = await api.post(path, body);
    assert.is(json.usage.total_tokens, 100);
    const limited = await api.post(path, { ...body, max_completion_tokens: 3 });
    assert.is(limited.json.usage.completion_tokens, 3);
  });
});

test('logprobs list the alternatives of each token', async () => {
  await withApi({}, async (api) => {
    const { json } = await api.post(path, { ...greedy, logprobs: true, top_logprobs: 2 });
    const { content } = json.choices[0].logprobs;
    assert.is(content.length, 8);
    assert.is(content[0].top_logprobs.length, 2);
    assert.is(content[0].top_logprobs[0].token, content[0].token);
    assert.equal(content[0].bytes, [...Buffer.from(content[0].token)]);
    const chunks = await api.stream(path, { ...greedy, logprobs: true });
    assert.is(chunks[0].choices[0].logprobs, null);
    assert.equal(chunks[1].choices[0].logprobs.content[0].top_logprobs, []);
  });
});

test('token ids: the prompt beside the choices and with the role, the answer with the content', async () => {
  await withApi({}, async (api) => {
    const { json } = await api.post(path, { ...greedy, return_token_ids: true });
    assert.equal(json.prompt_token_ids, api.engine.chatTemplate.encodeChat(messages));
    const chunks = await api.stream(path, { ...greedy, return_token_ids: true });
    assert.equal(chunks[0].prompt_token_ids, json.prompt_token_ids);
    assert.ok(chunks.slice(1).every((chunk) => chunk.prompt_token_ids === undefined));
    assert.equal(
      chunks.slice(1).flatMap((chunk) => chunk.choices[0].token_ids),
      json.choices[0].token_ids,
    );
  });
});

test.run();
