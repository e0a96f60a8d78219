// The first promise for P's first token: clients get the same answer whether P or D gives it, in every form they may ask for.
import { request } from 'undici';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { FirstToken } from '../../src/config.js';
import type { ClusterOptions } from '../../src/server/cluster.js';
import { type TestCluster, withCluster } from '../with-cluster.js';

// biome-ignore lint/suspicious/noExplicitAny: tests look into JSON of every shape
type Json = any;

const prompt = 'once upon a time there was a king who had three sons and a castle on the hill';
const messages = [{ role: 'user', content: 'Name rivers and what they carry to the sea.' }];
const greedy = { temperature: 0, max_tokens: 24, ignore_eos: true };
const seeded = { ...greedy, temperature: 0.9, seed: 11 };
const completions = '/v1/completions';
const chat = '/v1/chat/completions';

/** Of an answer, what does not depend on where it was made. */
interface Said {
  readonly status: number;
  readonly choices: readonly Json[];
  readonly usage: Json;
  readonly stats: Json;
}

async function post(url: string, path: string, body: object): Promise<{ status: number; text: string }> {
  const response = await request(url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-request-id': 'same' },
    body: JSON.stringify({ ...body, return_prefill_stats: true }),
  });
  return { status: response.statusCode, text: await response.body.text() };
}

function withoutCacheCounts({ prompt_tokens_details: _, ...usage }: Json): Json {
  return usage;
}

async function askWhole(url: string, path: string, body: object): Promise<Said> {
  const { status, text } = await post(url, path, body);
  const json = JSON.parse(text);
  assert.is(status, 200, text);
  return {
    status,
    choices: json.choices,
    usage: withoutCacheCounts(json.usage),
    stats: json.prefill_stats,
  };
}

/** A stream put together again, with what its chunks must have in common checked. */
async function askStream(url: string, path: string, body: object): Promise<Said> {
  const { status, text } = await post(url, path, {
    ...body,
    stream: true,
    stream_options: { include_usage: true },
  });
  assert.is(status, 200, text);
  const events = text.trimEnd().split('\n\n');
  assert.is(events.pop(), 'data: [DONE]');
  const chunks: Json[] = events.map((event) => JSON.parse(event.replace(/^data: /, '')));
  for (const field of ['id', 'object', 'created', 'model']) {
    assert.is(new Set(chunks.map((chunk) => chunk[field])).size, 1, `${field} differs: ${text}`);
  }
  const choices: Json[] = [];
  let stats: Json = null;
  for (const chunk of chunks) {
    if (chunk.choices[0]?.index === 0) stats = chunk.prefill_stats ?? stats;
    for (const { index, delta, text: piece, logprobs, token_ids, ...rest } of chunk.choices) {
      choices[index] ??= { text: '', logprobs: [], token_ids: [], roles: 0, prompt_token_ids: null };
      const choice = choices[index];
      assert.is(choice.finish_reason ?? null, null, 'nothing comes behind the end');
      choice.text += piece ?? delta.content;
      if (delta?.role) choice.roles += 1;
      if (logprobs) choice.logprobs.push(logprobs);
      if (token_ids) choice.token_ids.push(...token_ids);
      Object.assign(choice, { finish_reason: rest.finish_reason, stop_reason: rest.stop_reason });
      choice.prompt_token_ids ??= rest.prompt_token_ids ?? chunk.prompt_token_ids ?? null;
    }
  }
  return { status, choices, usage: withoutCacheCounts(chunks.at(-1).usage), stats };
}

const requests: Record<string, { path: string; body: Json; endsOnP?: boolean }> = {
  greedy: { path: completions, body: { prompt, ...greedy } },
  'greedy chat': { path: chat, body: { messages, ...greedy } },
  seeded: { path: completions, body: { prompt, ...seeded } },
  'seeded with penalties': {
    path: completions,
    body: {
      prompt,
      ...seeded,
      repetition_penalty: 1.3,
      presence_penalty: 0.7,
      frequency_penalty: 0.9,
      min_p: 0.02,
      top_p: 0.95,
      top_k: 40,
      logit_bias: { 300: 4, 301: 4 },
    },
  },
  logprobs: { path: completions, body: { prompt, ...seeded, logprobs: 3, return_token_ids: true } },
  'logprobs of a chat': {
    path: chat,
    body: { messages, ...greedy, logprobs: true, top_logprobs: 2, return_token_ids: true },
  },
  echo: { path: completions, body: { prompt, ...greedy, echo: true, return_token_ids: true } },
  'a prompt of token ids': {
    path: completions,
    body: { prompt: Array.from({ length: 64 }, (_, i) => 300 + i), ...greedy, return_token_ids: true },
  },
  'tokens in intervals': { path: completions, body: { prompt, ...greedy, stream_interval: 5, logprobs: 1 } },
  'several samples': { path: completions, body: { prompt, ...seeded, n: 3, logprobs: 0 } },
  'several samples of a chat': { path: chat, body: { messages, ...seeded, n: 2 } },
  'several samples of one token': { path: completions, body: { prompt, ...seeded, n: 2, max_tokens: 1 } },
  'one token': { path: completions, body: { prompt, ...greedy, max_tokens: 1, logprobs: 2 }, endsOnP: true },
  'one token of a chat': {
    path: chat,
    body: { messages, ...greedy, max_completion_tokens: 1, max_tokens: 9, return_token_ids: true },
    endsOnP: true,
  },
  'two tokens': { path: chat, body: { messages, ...greedy, max_tokens: 2 } },
  'min_tokens as long as the answer': {
    path: completions,
    body: { prompt, ...greedy, min_tokens: 24, ignore_eos: false },
  },
};

type Book = Record<string, { whole: Said; streamed: Said }>;

async function playAll(cluster: TestCluster, all: typeof requests): Promise<Book> {
  const book: Book = {};
  for (const [name, { path, body }] of Object.entries(all)) {
    book[name] = {
      whole: await askWhole(cluster.proxyUrl, path, body),
      streamed: await askStream(cluster.proxyUrl, path, body),
    };
  }
  return book;
}

/** More requests, made from what the model says to the first ones and from its tokenizer. */
async function addEndings(url: string): Promise<void> {
  const whole = await askWhole(url, completions, { prompt, ...greedy, return_token_ids: true, logprobs: 0 });
  const [{ token_ids: ids, text, logprobs }] = whole.choices as [Json];
  const [first, second]: [string, string] = [logprobs.tokens[0], logprobs.tokens[1]];
  const stop = (value: object, endsOnP = false) => ({
    path: completions,
    body: { prompt, ...greedy, logprobs: 1, ...value },
    endsOnP,
  });
  const cut = first.length - 1;
  Object.assign(requests, {
    'a stop token at once': stop({ stop_token_ids: [ids[0]] }, true),
    'a stop token at once, shown': stop({ stop_token_ids: [ids[0]], include_stop_str_in_output: true }, true),
    'a stop token that min_tokens forbids': stop({ stop_token_ids: [ids[0]], min_tokens: 4 }),
    'a later stop token': stop({ stop_token_ids: [ids[4]] }),
    'a stop string in the first token': stop({ stop: first.slice(1) }, true),
    'a stop string across the first two tokens': stop({ stop: (first + second).slice(cut, cut + 3) }),
    'a stop string begun and not found': stop({ stop: `${first.slice(-1)}\u0001` }),
    'a later stop string': stop({ stop: text.slice(20, 26), include_stop_str_in_output: true }),
    'several samples, the first of which ends at once': {
      path: completions,
      body: { prompt, ...greedy, n: 2, stop_token_ids: [ids[0]] },
    },
  });
  const tokenized = await post(url, '/tokenize', { prompt: '€', add_special_tokens: false });
  const bytes: number[] = JSON.parse(tokenized.text).tokens;
  assert.is(bytes.length, 3, 'a character of three tokens');
  Object.assign(requests, {
    'a first token inside a character': stop({ allowed_token_ids: bytes, max_tokens: 7 }),
    'one token inside a character': stop({ allowed_token_ids: bytes, max_tokens: 1 }, true),
  });
}

const aggregated = await withCluster({ prefill: 0, decode: 1 }, async (cluster) => {
  await addEndings(cluster.proxyUrl);
  return playAll(cluster, requests);
});

function compare(book: Book, firstToken: FirstToken): void {
  for (const [name, { endsOnP = false, body }] of Object.entries(requests)) {
    for (const form of ['whole', 'streamed'] as const) {
      const [given, expected] = [book[name]![form], aggregated[name]![form]];
      assert.equal(given.choices, expected.choices, `${name}, ${form}, first token from ${firstToken}`);
      assert.equal(given.usage, expected.usage, `${name}, ${form}, first token from ${firstToken}`);
      // Where the first sample of several ends at once, D makes all of them.
      const isFromP = firstToken === 'prefill' && (endsOnP || !isOneToken(given.choices[0], body));
      const numComputed = isFromP ? 0 : 1;
      assert.is(given.stats.num_decode_computed_tokens, numComputed, `${name}, ${form}`);
    }
  }
}

/** The answer, and not only what was asked for, ends with its first token. */
function isOneToken({ finish_reason }: Json, body: Json): boolean {
  return body.max_tokens === 1 || (body.n > 1 && finish_reason === 'stop');
}

const modes = {
  uni: { engine: { kvTransfer: { mode: 'uni', firstToken: 'prefill' } } },
  bi: { engine: { kvTransfer: { mode: 'bi', firstToken: 'prefill' } } },
  'bi by ticket': {
    engine: {
      kvTransfer: { mode: 'bi', lookup: 'ticket', firstToken: 'prefill', decoderKvBlocksTtlMs: 2500 },
    },
  },
  'bi, the first token from D': { engine: { kvTransfer: { mode: 'bi', firstToken: 'decode' } } },
} as const satisfies Record<string, ClusterOptions>;

for (const [name, options] of Object.entries(modes)) {
  test(`${name}: every form of answer is the one that an aggregated node gives`, async () => {
    await withCluster(options, async (cluster) => {
      const book = await playAll(cluster, requests);
      await cluster.assertWhole();
      compare(book, options.engine.kvTransfer.firstToken);
    });
  });
}

test.run();
