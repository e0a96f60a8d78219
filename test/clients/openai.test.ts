// OpenAI's own client against a proxy with a prefill and a decode node, configured with nothing but its base URL.
import OpenAI, { APIConnectionTimeoutError, APIUserAbortError, BadRequestError, NotFoundError } from 'openai';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { shareCluster } from './shared-cluster.js';

interface Setup {
  readonly client: OpenAI;
  /** Paths of the requests that the client sent, retries included. */
  readonly sent: string[];
}

const messages = [
  { role: 'system', content: 'be kind' },
  { role: 'user', content: 'once upon a time there was a king who had three sons and a castle on the hill' },
] as const;
// `model` is what GET /v1/models lists.
const greedy = { model: 'tiny', temperature: 0, max_completion_tokens: 12 };
const long = { ...greedy, max_completion_tokens: 3000, ignore_eos: true };

const cluster = shareCluster(test);

function setUp(options: ConstructorParameters<typeof OpenAI>[0] = {}): Setup {
  const sent: string[] = [];
  const client = new OpenAI({
    baseURL: `${cluster().proxyUrl}/v1`,
    apiKey: 'none',
    ...options,
    fetch: (input, init) => {
      sent.push(new URL(String(input)).pathname);
      return fetch(input as string, init as RequestInit);
    },
  });
  return { client, sent };
}

async function failureOf(call: Promise<unknown>): Promise<Error> {
  return call.then(
    () => {
      throw new Error('Expected the call to fail.');
    },
    (error: Error) => error,
  );
}

test('models are listed under the name that requests give', async () => {
  const { client } = setUp();
  const names: string[] = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.equal(names, [greedy.model]);
});

test('a chat answer has a message, a reason and counts, and goes on as history', async () => {
  const { client } = setUp();
  const first = await client.chat.completions.create({ ...greedy, messages: [...messages] });
  const [choice] = first.choices;
  assert.is(choice!.message.role, 'assistant');
  assert.type(choice!.message.content, 'string');
  assert.is(choice!.finish_reason, 'length');
  const { prompt_tokens, completion_tokens, total_tokens } = first.usage!;
  assert.equal([completion_tokens, total_tokens], [12, prompt_tokens + 12]);
  // The client's own object goes back, with every field that the server put into it.
  const history = [...messages, choice!.message, { role: 'user' as const, content: 'and then' }];
  const second = await client.chat.completions.create({ ...greedy, messages: history });
  assert.ok(second.usage!.prompt_tokens_details!.cached_tokens! >= 32);
});

test('a chat stream says what the whole answer says, and its usage at the end', async () => {
  const { client } = setUp();
  const whole = await client.chat.completions.create({ ...greedy, messages: [...messages] });
  const stream = await client.chat.completions.create({
    ...greedy,
    messages: [...messages],
    stream: true,
    stream_options: { include_usage: true },
  });
  let content = '';
  const reasons: (string | null)[] = [];
  let usage: OpenAI.CompletionUsage | null | undefined;
  let role: string | undefined;
  for await (const chunk of stream) {
    const [choice] = chunk.choices;
    role ??= choice?.delta.role;
    content += choice?.delta.content ?? '';
    if (choice?.finish_reason) reasons.push(choice.finish_reason);
    usage = chunk.usage;
  }
  assert.is(content, whole.choices[0]!.message.content);
  assert.equal([role, reasons], ['assistant', ['length']]);
  assert.equal([usage!.prompt_tokens, usage!.completion_tokens], [whole.usage!.prompt_tokens, 12]);
});

test("the client's own accumulator puts a stream back together", async () => {
  const { client } = setUp();
  const body = { ...greedy, messages: [...messages], logprobs: true, top_logprobs: 2 };
  const whole = await client.chat.completions.create(body);
  const runner = client.chat.completions.stream({ ...body, stream_options: { include_usage: true } });
  const deltas: string[] = [];
  runner.on('content', (delta) => deltas.push(delta));
  const final = await runner.finalChatCompletion();
  assert.is(deltas.join(''), whole.choices[0]!.message.content);
  assert.is(final.choices[0]!.message.content, whole.choices[0]!.message.content);
  assert.is(final.choices[0]!.finish_reason, 'length');
  assert.equal(final.choices[0]!.logprobs!.content, whole.choices[0]!.logprobs!.content);
  assert.is(final.usage!.completion_tokens, 12);
});

test('chat logprobs are of the tokens that were said', async () => {
  const { client } = setUp();
  const { choices } = await client.chat.completions.create({
    ...greedy,
    messages: [...messages],
    logprobs: true,
    top_logprobs: 3,
  });
  const content = choices[0]!.logprobs!.content!;
  assert.is(content.map((entry) => entry.token).join(''), choices[0]!.message.content);
  for (const entry of content) {
    assert.ok(entry.logprob <= 0);
    assert.is(entry.top_logprobs.length, 3);
    assert.is(entry.top_logprobs[0]!.logprob, entry.logprob);
  }
});

test('completions take one prompt or several, whole or streamed', async () => {
  const { client } = setUp();
  const body = { model: 'tiny', temperature: 0, max_tokens: 8 };
  const prompts = ['once upon a time', 'the people of the sea'];
  const alone: string[] = [];
  for (const prompt of prompts) {
    const { choices, usage } = await client.completions.create({ ...body, prompt, logprobs: 1 });
    alone.push(choices[0]!.text);
    assert.is(choices[0]!.logprobs!.tokens!.length, 8);
    assert.is(usage!.completion_tokens, 8);
  }
  const both = await client.completions.create({ ...body, prompt: prompts });
  assert.equal(
    both.choices.map((choice) => choice.text),
    alone,
  );
  const joined = ['', ''];
  let usage: OpenAI.CompletionUsage | undefined | null;
  const stream = await client.completions.create({
    ...body,
    prompt: prompts,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    for (const choice of chunk.choices) joined[choice.index] += choice.text;
    usage = chunk.usage;
  }
  assert.equal(joined, alone);
  assert.is(usage!.completion_tokens, 16);
});

test('an echoed prompt has log probabilities of its own', async () => {
  const { client } = setUp();
  const body = { model: 'tiny', temperature: 0, logprobs: 2, prompt: messages[1].content };
  const answer = await client.completions.create({ ...body, max_tokens: 4 });
  const { text, logprobs } = answer.choices[0]!;
  const prompt = body.prompt + text;
  const { choices, usage } = await client.completions.create({ ...body, prompt, echo: true, max_tokens: 0 });
  const [echoed] = choices;
  assert.is(echoed!.text, prompt);
  assert.is(echoed!.logprobs!.tokens!.join(''), prompt);
  assert.equal(echoed!.logprobs!.token_logprobs!.slice(-4), logprobs!.token_logprobs);
  assert.equal(echoed!.logprobs!.top_logprobs!.slice(-4), logprobs!.top_logprobs);
  assert.is(usage!.completion_tokens, 0);
});

test('n, stop and seed reach the nodes', async () => {
  const { client } = setUp();
  const body = { ...greedy, messages: [...messages], temperature: 1, seed: 7, n: 3 };
  const texts = async () =>
    (await client.chat.completions.create(body)).choices.map((choice) => choice.message.content);
  const first = await texts();
  assert.is(new Set(first).size, 3);
  assert.equal(await texts(), first);
  const { choices } = await client.chat.completions.create({ ...greedy, messages: [...messages] });
  const stop = choices[0]!.message.content!.trim().split(' ')[3]!;
  const stopped = await client.chat.completions.create({ ...greedy, messages: [...messages], stop });
  assert.is(stopped.choices[0]!.finish_reason, 'stop');
  assert.not.match(stopped.choices[0]!.message.content!, stop);
});

test('errors come as the classes of the client, with message, param and type, and are not retried', async () => {
  const { client, sent } = setUp();
  const unknown = await failureOf(
    client.chat.completions.create({ ...greedy, model: 'gpt', messages: [...messages] }),
  );
  assert.instance(unknown, NotFoundError);
  const { status, param, type, message } = unknown as NotFoundError;
  assert.equal(
    [status, param, type, message],
    [404, 'model', 'NotFoundError', '404 The model `gpt` does not exist.'],
  );
  const wrong = await failureOf(
    client.chat.completions.create({ ...greedy, messages: [...messages], temperature: -1 }),
  );
  assert.instance(wrong, BadRequestError);
  assert.is((wrong as BadRequestError).param, 'temperature');
  const streamed = client.chat.completions.create({
    ...greedy,
    messages: [...messages],
    max_completion_tokens: 1e6,
    stream: true,
  });
  assert.instance(await failureOf(streamed), BadRequestError);
  assert.is(sent.length, 3);
});

test('leaving a stream, and aborting a call, end the request on the nodes', async () => {
  const { client, sent } = setUp();
  const stream = await client.chat.completions.create({ ...long, messages: [...messages], stream: true });
  let numChunks = 0;
  for await (const _ of stream) if (++numChunks === 3) break;
  await cluster().assertWhole();

  const controller = new AbortController();
  const call = client.chat.completions.create(
    { ...long, messages: [...messages] },
    { signal: controller.signal },
  );
  const failure = failureOf(call);
  while ((await cluster().stateOf(cluster().decode[0]!)).numRunning === 0) await new Promise(setImmediate);
  controller.abort();
  assert.instance(await failure, APIUserAbortError);
  await cluster().assertWhole();
  assert.is(sent.length, 2);
});

test("a call that runs into the client's timeout ends on the nodes too, and is repeated only as often as asked", async () => {
  const { client, sent } = setUp({ timeout: 300, maxRetries: 1 });
  const failure = await failureOf(client.chat.completions.create({ ...long, messages: [...messages] }));
  assert.instance(failure, APIConnectionTimeoutError);
  assert.is(sent.length, 2);
  await cluster().assertWhole();
});

test('a call whose answer takes long, but not longer than the timeout, is sent once', async () => {
  const { client, sent } = setUp({ timeout: 60_000 });
  const { usage } = await client.chat.completions.create({
    ...long,
    max_completion_tokens: 400,
    messages: [...messages],
  });
  assert.equal([usage!.completion_tokens, sent.length], [400, 1]);
});

test("X-Request-Id becomes part of the answer's id and comes back", async () => {
  const { client } = setUp({ defaultHeaders: { 'x-request-id': 'mine-1' } });
  const { data, response, request_id } = await client.chat.completions
    .create({ ...greedy, messages: [...messages] })
    .withResponse();
  assert.is(data.id, 'chatcmpl-mine-1');
  assert.is(response.headers.get('x-request-id'), 'mine-1');
  assert.is(request_id, 'mine-1');
});

test.run();
