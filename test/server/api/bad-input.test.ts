// Requests that no node can serve, each with its status and a sentence.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { text, withApi } from './setup.js';

interface Case {
  readonly name: string;
  readonly body: object | string;
  readonly status: number;
  readonly says: RegExp;
  readonly param?: string;
}

const prompt = text;
const messages = [{ role: 'user', content: text }];

const completionCases: readonly Case[] = [
  { name: 'no body', body: '', status: 400, says: /JSON body but received an empty body/ },
  { name: 'malformed JSON', body: '{"prompt": ', status: 400, says: /JSON body/ },
  { name: 'NaN', body: '{"prompt": "a", "temperature": NaN}', status: 400, says: /JSON body/ },
  { name: 'a JSON list', body: [prompt], status: 400, says: /JSON object as body/ },
  { name: 'a JSON null', body: 'null', status: 400, says: /JSON object as body but received null/ },
  { name: 'no prompt', body: {}, status: 400, says: /for `prompt` but received nothing/, param: 'prompt' },
  { name: 'a number as prompt', body: { prompt: 5 }, status: 400, says: /for `prompt` but received 5/ },
  { name: 'an empty list as prompt', body: { prompt: [] }, status: 400, says: /for `prompt`/ },
  { name: 'a mixed list as prompt', body: { prompt: [1, 'a'] }, status: 400, says: /for `prompt`/ },
  {
    name: 'an empty prompt among others',
    body: { prompt: [[1], []] },
    status: 400,
    says: /at least one token/,
  },
  { name: 'fractions as token ids', body: { prompt: [1.5] }, status: 400, says: /for `prompt`/ },
  {
    name: 'a token id beyond the vocabulary',
    body: { prompt: [1e6] },
    status: 400,
    says: /received 1000000/,
  },
  {
    name: 'an unknown model',
    body: { prompt, model: 'x' },
    status: 404,
    says: /^The model `x` does not exist\.$/,
    param: 'model',
  },
  {
    name: 'a text as max_tokens',
    body: { prompt, max_tokens: '5' },
    status: 400,
    says: /`max_tokens`.*"5"/,
    param: 'max_tokens',
  },
  {
    name: 'no tokens at all',
    body: { prompt, max_tokens: 0 },
    status: 400,
    says: /`max_tokens` of at least 1.*0/,
  },
  { name: 'negative max_tokens', body: { prompt, max_tokens: -1 }, status: 400, says: /`max_tokens`.*-1/ },
  {
    name: 'huge max_tokens',
    body: { prompt, max_tokens: 1e9 },
    status: 400,
    says: /too large: 1000000000/,
    param: 'max_tokens',
  },
  {
    name: 'max_tokens beyond integers',
    body: { prompt, max_tokens: 1e30 },
    status: 400,
    says: /`max_tokens`/,
  },
  {
    name: 'max_tokens a bit beyond the context',
    body: { prompt: [1, 2], max_tokens: 255 },
    status: 400,
    says: /255 > 256 - 2/,
  },
  {
    name: 'a prompt beyond the context',
    body: { prompt: new Array(300).fill(5) },
    status: 400,
    says: /256 tokens.*300 tokens/,
  },
  {
    name: 'negative temperature',
    body: { prompt, temperature: -0.1 },
    status: 400,
    says: /at least 0 for `temperature`/,
    param: 'temperature',
  },
  {
    name: 'infinite temperature',
    body: '{"prompt": "a", "temperature": 1e999}',
    status: 400,
    says: /`temperature`/,
  },
  { name: 'top_p 0', body: { prompt, top_p: 0 }, status: 400, says: /more than 0 for `top_p`/ },
  { name: 'top_p over 1', body: { prompt, top_p: 1.1 }, status: 400, says: /at most 1 for `top_p`/ },
  { name: 'top_k under -1', body: { prompt, top_k: -2 }, status: 400, says: /`top_k`/ },
  { name: 'min_p over 1', body: { prompt, min_p: 2 }, status: 400, says: /`min_p`/ },
  {
    name: 'repetition penalty 0',
    body: { prompt, repetition_penalty: 0 },
    status: 400,
    says: /`repetition_penalty`/,
  },
  {
    name: 'a large presence penalty',
    body: { prompt, presence_penalty: 3 },
    status: 400,
    says: /`presence_penalty`/,
  },
  { name: 'a fraction as seed', body: { prompt, seed: 1.5 }, status: 400, says: /an integer for `seed`/ },
  {
    name: 'an empty stop string',
    body: { prompt, stop: '' },
    status: 400,
    says: /at least 1 characters for `stop`/,
  },
  {
    name: 'an empty stop string in a list',
    body: { prompt, stop: ['a', ''] },
    status: 400,
    says: /`stop.1`/,
  },
  {
    name: 'a negative stop token',
    body: { prompt, stop_token_ids: [-1] },
    status: 400,
    says: /`stop_token_ids.0`/,
  },
  {
    name: 'min_tokens over max_tokens',
    body: { prompt, max_tokens: 2, min_tokens: 3 },
    status: 400,
    says: /min_tokens/,
  },
  {
    name: 'a bias for no number',
    body: { prompt, logit_bias: { a: 1 } },
    status: 400,
    says: /a token id for `logit_bias/,
  },
  {
    name: 'a bias beyond the vocabulary',
    body: { prompt, logit_bias: { 1000000: 1 } },
    status: 400,
    says: /logit_bias/,
  },
  {
    name: 'too many logprobs',
    body: { prompt, logprobs: 21 },
    status: 400,
    says: /at most 20 for `logprobs`/,
  },
  { name: 'n 0', body: { prompt, n: 0 }, status: 400, says: /at least 1 for `n`/ },
  { name: 'a text as stream', body: { prompt, stream: 'yes' }, status: 400, says: /a boolean for `stream`/ },
  {
    name: 'stream options without a stream',
    body: { prompt, stream_options: {} },
    status: 400,
    says: /`stream` to be true/,
  },
  { name: 'an empty cache salt', body: { prompt, cache_salt: '' }, status: 400, says: /`cache_salt`/ },
  {
    name: 'a long cache salt',
    body: { prompt, cache_salt: 'a'.repeat(1025) },
    status: 400,
    says: /at most 1024 characters for `cache_salt`/,
  },
  { name: 'an empty request id', body: { prompt, request_id: '' }, status: 400, says: /`request_id`/ },
  { name: 'a suffix', body: { prompt, suffix: 'x' }, status: 400, says: /a suffix is not supported/ },
  { name: 'best_of', body: { prompt, best_of: 2 }, status: 400, says: /`best_of`/ },
  {
    name: 'too many prompt logprobs',
    body: { prompt, prompt_logprobs: 21 },
    status: 400,
    says: /at most 20 for `prompt_logprobs`/,
  },
  {
    name: 'prompt logprobs of the whole vocabulary',
    body: { prompt, prompt_logprobs: -1 },
    status: 400,
    says: /at least 0 for `prompt_logprobs`/,
  },
  {
    name: 'prompt logprobs in a stream',
    body: { prompt, prompt_logprobs: 1, stream: true },
    status: 400,
    says: /`prompt_logprobs` are not available when `stream=True`/,
    param: 'prompt_logprobs',
  },
  {
    name: 'prompt logprobs on two nodes, the first of which gives the first token',
    body: {
      prompt,
      prompt_logprobs: 1,
      kv_transfer_params: { do_remote_decode: true, return_first_token: true },
    },
    status: 400,
    says: /log probabilities of the prompt/,
    param: 'kv_transfer_params.return_first_token',
  },
  {
    name: 'log probabilities by token id',
    body: { prompt, logprob_token_ids: [1] },
    status: 400,
    says: /`logprobs` as well when `logprob_token_ids`/,
  },
  {
    name: 'log probabilities of what is no token',
    body: { prompt, logprobs: 1, logprob_token_ids: [1_000_000] },
    status: 400,
    says: /in logprob_token_ids but received 1000000/,
    param: 'logprob_token_ids',
  },
  {
    name: 'log probabilities of too many tokens',
    body: { prompt, logprobs: 1, logprob_token_ids: new Array(129).fill(1) },
    status: 400,
    says: /at most 128 entries for `logprob_token_ids`/,
  },
  { name: 'beam search', body: { prompt, use_beam_search: true }, status: 400, says: /beam search is not/ },
  {
    name: 'structured outputs',
    body: { prompt, structured_outputs: { regex: 'a' } },
    status: 400,
    says: /structured output is not supported/,
  },
  {
    name: 'a priority',
    body: { prompt, priority: 5 },
    status: 400,
    says: /Expected priority 0 but received 5: priority scheduling is not enabled/,
    param: 'priority',
  },
  {
    name: 'no allowed tokens at all',
    body: { prompt, allowed_token_ids: [] },
    status: 400,
    says: /at least 1 entries for `allowed_token_ids`/,
  },
  {
    name: 'an allowed token beyond the vocabulary',
    body: { prompt, allowed_token_ids: [1, 1_000_000] },
    status: 400,
    says: /in allowed_token_ids but received 1000000/,
    param: 'allowed_token_ids',
  },
  {
    name: 'an empty bad word',
    body: { prompt, bad_words: ['a', ''] },
    status: 400,
    says: /`bad_words.1`/,
  },
  {
    name: 'a prompt cut to nothing',
    body: { prompt, truncate_prompt_tokens: 0 },
    status: 400,
    says: /at least one token/,
  },
  {
    name: 'a side that is none',
    body: { prompt, truncate_prompt_tokens: 4, truncation_side: 'middle' },
    status: 400,
    says: /"left" or "right" for `truncation_side`/,
  },
  {
    name: 'a stream interval of 0',
    body: { prompt, stream_interval: 0 },
    status: 400,
    says: /`stream_interval`/,
  },
  {
    name: 'a JSON schema',
    body: { prompt, response_format: { type: 'json_schema' } },
    status: 400,
    says: /`response_format.type`/,
  },
  {
    name: 'kv_transfer_params that are none',
    body: { prompt, kv_transfer_params: 5 },
    status: 400,
    says: /kv_transfer_params/,
  },
  {
    name: 'a port out of range',
    body: { prompt, kv_transfer_params: { remote_port: 99_999 } },
    status: 400,
    says: /remote_port/,
    param: 'kv_transfer_params.remote_port',
  },
  {
    name: 'one ticket for two prompts',
    body: { prompt: [prompt, prompt], kv_transfer_params: { do_remote_decode: true } },
    status: 400,
    says: /one prompt/,
  },
];

const chatCases: readonly Case[] = [
  {
    name: 'no messages',
    body: {},
    status: 400,
    says: /for `messages` but received nothing/,
    param: 'messages',
  },
  {
    name: 'an empty list of messages',
    body: { messages: [] },
    status: 400,
    says: /at least 1 entries for `messages`/,
  },
  {
    name: 'a message that is text',
    body: { messages: ['hi'] },
    status: 400,
    says: /an object for `messages.0`/,
  },
  {
    name: 'a message without a role',
    body: { messages: [{ content: 'a' }] },
    status: 400,
    says: /`messages.0.role`/,
  },
  {
    name: 'a number as content',
    body: { messages: [{ role: 'user', content: 5 }] },
    status: 400,
    says: /`messages.0.content`/,
  },
  {
    name: 'an image',
    body: { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }] },
    status: 400,
    says: /`messages.0.content`/,
  },
  {
    name: 'alternatives without logprobs',
    body: { messages, top_logprobs: 2 },
    status: 400,
    says: /`logprobs` to be true/,
  },
  {
    name: 'a tool that is no function',
    body: { messages, tools: [{ type: 'code' }] },
    status: 400,
    says: /"function", the only kind of tool supported, for `tools.0.type` but received "code"/,
  },
  {
    name: 'a tool call that is asked for',
    body: { messages, tools: [{ type: 'function', function: { name: 'f' } }], tool_choice: 'required' },
    status: 400,
    says: /no tool call can be enforced, for `tool_choice` but received "required"/,
    param: 'tool_choice',
  },
  {
    name: 'a tool call whose arguments are no JSON',
    body: {
      messages: [
        ...messages,
        { role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: '{' } }] },
      ],
    },
    status: 400,
    says: /JSON text for `messages.1.tool_calls.0.function.arguments` but received "\{"/,
  },
  {
    name: 'functions',
    body: { messages, functions: [{}] },
    status: 400,
    says: /form of tools is not supported/,
  },
  {
    name: "a chat template of the request's own",
    body: { messages, chat_template: '{{ messages }}' },
    status: 400,
    says: /chat template of the request's own is not supported/,
  },
  {
    name: 'a JSON object as format',
    body: { messages, response_format: { type: 'json_object' } },
    status: 400,
    says: /"text", the only format supported, for `response_format.type` but received "json_object"/,
  },
  {
    name: 'both ways to end a prompt',
    body: { messages, continue_final_message: true, add_generation_prompt: true },
    status: 400,
    says: /continue_final_message/,
  },
  { name: 'an unknown model', body: { messages, model: 'x' }, status: 404, says: /does not exist/ },
];

const otherCases: readonly (Case & { readonly path: string })[] = [
  {
    path: '/v1/cache_query',
    name: 'a query of nothing',
    body: {},
    status: 400,
    says: /`prompt` or `messages`/,
  },
  {
    path: '/v1/cache_query',
    name: 'a query of both',
    body: { prompt, messages },
    status: 400,
    says: /`prompt` or `messages`/,
  },
  {
    path: '/v1/cache_query',
    name: 'a query of two prompts',
    body: { prompt: [prompt, prompt] },
    status: 400,
    says: /received 2/,
  },
  {
    path: '/v1/cache_query',
    name: 'a text as lease',
    body: { prompt, lease: 'yes' },
    status: 400,
    says: /`lease`/,
  },
  {
    path: '/v1/cache_query/release',
    name: 'a release of nothing',
    body: {},
    status: 400,
    says: /`lease_id`/,
  },
  { path: '/tokenize', name: 'tokens of nothing', body: {}, status: 400, says: /`prompt` or `messages`/ },
  {
    path: '/detokenize',
    name: 'text of unknown tokens',
    body: { tokens: [1e6] },
    status: 400,
    says: /1000000/,
  },
  {
    path: '/detokenize',
    name: 'text of text',
    body: { tokens: 'abc' },
    status: 400,
    says: /a list for `tokens`/,
  },
  { path: '/v1/nothing', name: 'an unknown path', body: {}, status: 404, says: /no path `\/v1\/nothing`/ },
  { path: '/health', name: 'the wrong method', body: {}, status: 405, says: /method GET.*received POST/ },
];

const cases = [
  ...completionCases.map((entry) => ({ ...entry, path: '/v1/completions' })),
  ...chatCases.map((entry) => ({ ...entry, path: '/v1/chat/completions' })),
  ...otherCases,
];

test('bad input of every kind gets a status and a sentence, and leaves nothing behind', async () => {
  await withApi({ scheduler: { maxModelLen: 256 } }, async (api) => {
    const wrong: string[] = [];
    for (const { path, name, body, status, says, param } of cases) {
      const reply = await api.postText(path, typeof body === 'string' ? body : JSON.stringify(body));
      const error = reply.json?.error;
      const isRight =
        reply.status === status &&
        error.code === status &&
        typeof error.type === 'string' &&
        says.test(error.message) &&
        (param === undefined || error.param === param);
      if (!isRight) wrong.push(`${name}: ${reply.status} ${reply.text}`);
    }
    assert.equal(wrong, []);
    const get = await api.get('/v1/completions');
    assert.is(get.status, 405);
  });
});

test('a stream that is refused gets a status, not an event', async () => {
  await withApi({}, async (api) => {
    const reply = await api.post('/v1/completions', { prompt: [1e6], stream: true });
    assert.is(reply.status, 400);
    assert.match(reply.json.error.message, /1000000/);
  });
});

test('a body over 32 MiB is refused, and the connection still serves', async () => {
  await withApi({}, async (api) => {
    const reply = await api.postText('/v1/completions', `{"prompt": "${'a'.repeat(33 * 1024 * 1024)}"}`);
    assert.is(reply.status, 413);
    assert.match(reply.json.error.message, /33554432 bytes/);
    assert.is((await api.get('/health')).status, 200);
  });
});

test('fields that nobody knows, and null for absent, are fine', async () => {
  await withApi({}, async (api) => {
    const body = {
      prompt,
      max_tokens: 1,
      user: 'me',
      temperature: null,
      stop: null,
      top_k: -1,
      kv_transfer_params: null,
    };
    assert.is((await api.post('/v1/completions', body)).status, 200);
  });
});

test.run();
