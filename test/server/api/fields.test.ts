// Request fields beyond the everyday ones: what each changes in an answer.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Json, type TestApi, tellingTemplate, text, withApi, withModelFiles } from './setup.js';

const completions = '/v1/completions';
const chat = '/v1/chat/completions';
const messages = [{ role: 'user', content: text }];
const greedy = { temperature: 0, max_tokens: 8, ignore_eos: true };

test('allowed_token_ids: nothing else is said, by either endpoint', async () => {
  await withApi({}, async (api) => {
    const allowed_token_ids = [300, 301];
    const body = { ...greedy, temperature: 1, seed: 1, allowed_token_ids, return_token_ids: true };
    for (const [where, prompt] of [
      [completions, { prompt: text }],
      [chat, { messages }],
    ] as const) {
      const { json } = await api.post(where, { ...body, ...prompt });
      const ids: number[] = json.choices[0].token_ids;
      assert.is(ids.length, 8);
      assert.ok(ids.every((id) => allowed_token_ids.includes(id)));
    }
    // What the model's own configuration suppresses may be asked for.
    const eos = api.engine.generationConfig.eosTokenIds[0]!;
    const { json } = await api.post(completions, {
      ...greedy,
      ignore_eos: false,
      prompt: text,
      allowed_token_ids: [eos],
    });
    assert.equal(
      [json.choices[0].text, json.choices[0].finish_reason, json.choices[0].stop_reason],
      ['', 'stop', null],
    );
  });
});

test('bad_words: a word that would be said is not, in the middle of a text or at its beginning', async () => {
  await withApi({}, async (api) => {
    const body = { ...greedy, prompt: text, max_tokens: 24 };
    const plain: string = (await api.post(completions, body)).json.choices[0].text;
    const words = plain.trim().split(' ');
    const word = words[2]!;
    const without = (await api.post(completions, { ...body, bad_words: [word] })).json.choices[0].text;
    assert.not(without.split(' ').includes(word));
    assert.is(without.trim().split(' ').slice(0, 2).join(' '), words.slice(0, 2).join(' '));
    // Two words in a row: each alone is still allowed.
    const pair = `${words[1]} ${words[2]}`;
    const unpaired: string = (await api.post(completions, { ...body, bad_words: [pair] })).json.choices[0]
      .text;
    assert.not(unpaired.includes(pair));
    assert.is(unpaired.trim().split(' ')[1], words[1]);
  });
});

test('each everyday field changes the answer that it is there to change', async () => {
  await withApi({}, async (api) => {
    const body = { ...greedy, prompt: text, max_tokens: 40, return_token_ids: true };
    const plain: Json = (await api.post(completions, body)).json.choices[0];
    const repeated: number = plain.token_ids.find((id: number, i: number) => plain.token_ids.indexOf(id) < i);
    const drawn = { ...body, temperature: 1, seed: 3 };
    const free: Json = (await api.post(completions, drawn)).json.choices[0];
    const draw = async (fields: object): Promise<number[]> =>
      (await api.post(completions, { ...drawn, ...fields })).json.choices[0].token_ids;
    const say = async (fields: object): Promise<Json> =>
      (await api.post(completions, { ...body, ...fields })).json.choices[0];
    assert.equal(await draw({}), free.token_ids);
    assert.not.equal(await draw({ seed: 4 }), free.token_ids);
    assert.not.equal(await draw({ temperature: 2 }), free.token_ids);
    for (const narrow of [{ top_k: 1 }, { top_p: 1e-6 }, { min_p: 1 }]) {
      assert.equal(await draw(narrow), plain.token_ids, JSON.stringify(narrow));
    }
    // Greedy answers of this model repeat words.
    assert.ok(repeated !== undefined);
    for (const penalty of [{ repetition_penalty: 5 }, { presence_penalty: 2 }, { frequency_penalty: 2 }]) {
      assert.not.equal((await say(penalty)).token_ids, plain.token_ids, JSON.stringify(penalty));
    }
    const stop = plain.text.slice(10, 14);
    const upTo = plain.text.slice(0, plain.text.indexOf(stop));
    assert.is((await say({ stop })).text, upTo);
    assert.is((await say({ stop: ['not said', stop], include_stop_str_in_output: true })).text, upTo + stop);
    const [eos] = api.engine.generationConfig.eosTokenIds;
    const ends = { allowed_token_ids: [eos], max_tokens: 2 };
    assert.equal((await say({ ...ends, ignore_eos: false })).finish_reason, 'stop');
    assert.is((await say(ends)).text, '');
    assert.is((await say({ ...ends, skip_special_tokens: false })).text, '<|end|><|end|>');
    const cached = async (fields: object): Promise<number> =>
      (await api.post(completions, { ...body, ...fields })).json.usage.prompt_tokens_details.cached_tokens;
    assert.ok((await cached({})) > 0);
    assert.equal([await cached({ cache_salt: 'a' }), await cached({ cache_salt: 'b' })], [0, 0]);
    assert.ok((await cached({ cache_salt: 'a' })) > 0);
  });
});

test("a chat's prompt ends where the request says, and may come as token ids", async () => {
  await withApi({}, async (api) => {
    const history = [...messages, { role: 'assistant', content: 'once upon' }];
    const promptOf = async (fields: object): Promise<string> => {
      const { json } = await api.post(chat, {
        ...greedy,
        messages: history,
        ...fields,
        return_token_ids: true,
      });
      return api.engine.tokenizer.decode(json.prompt_token_ids, { skipSpecialTokens: false });
    };
    assert.match(await promptOf({}), /once upon<\|end\|><\|assistant\|>$/);
    assert.match(await promptOf({ add_generation_prompt: false }), /once upon<\|end\|>$/);
    assert.match(await promptOf({ continue_final_message: true }), /<\|assistant\|>once upon$/);
    assert.is(await promptOf({ prompt_token_ids: [300, 301] }), api.engine.tokenizer.decode([300, 301]));
  });
});

test('truncate_prompt_tokens keeps the end of a prompt, or its beginning; -1 keeps what fits', async () => {
  await withApi({ scheduler: { maxModelLen: 64 } }, async (api) => {
    const ids = api.engine.tokenizer.encode(text);
    const promptOf = async (where: string, fields: object): Promise<number[]> => {
      const { json } = await api.post(where, { ...greedy, ...fields, return_token_ids: true });
      return json.prompt_token_ids ?? json.choices[0].prompt_token_ids;
    };
    const cut = { truncate_prompt_tokens: 5 };
    assert.equal(await promptOf(completions, { prompt: text, ...cut }), ids.slice(-5));
    assert.equal(await promptOf(completions, { prompt: ids, ...cut }), ids.slice(-5));
    assert.equal(
      await promptOf(completions, { prompt: text, ...cut, truncation_side: 'right' }),
      ids.slice(0, 5),
    );
    assert.equal(
      await promptOf(chat, { messages, ...cut }),
      api.engine.chatTemplate.encodeChat(messages).slice(-5),
    );
    const long = [...ids, ...ids, ...ids, ...ids, ...ids];
    assert.is((await api.post(completions, { ...greedy, prompt: long })).status, 400);
    const fitting = await promptOf(completions, { prompt: long, truncate_prompt_tokens: -1 });
    assert.equal(fitting, long.slice(-(64 - 8)));
    // What is echoed is what was left.
    const { json } = await api.post(completions, { ...greedy, prompt: text, ...cut, echo: true });
    assert.ok(json.choices[0].text.startsWith(api.engine.tokenizer.decode(ids.slice(-5))));
    // A cache query is about the same prompt.
    const query = await api.post('/v1/cache_query', { prompt: text, ...cut });
    assert.is(query.json.num_prompt_tokens, 5);
  });
});

test('stream_interval: fewer chunks, the first and the last at once, nothing lost', async () => {
  await withApi({}, async (api) => {
    const body = { ...greedy, prompt: text, max_tokens: 20, return_token_ids: true, stream_interval: 6 };
    const sizes = (chunks: Json[]) => chunks.map((chunk) => chunk.choices[0].token_ids.length);
    const chunks = await api.stream(completions, body);
    const [first, ...rest] = sizes(chunks);
    assert.is(first, 1);
    assert.ok(rest.slice(0, -1).every((size) => size >= 6));
    const whole = (await api.post(completions, body)).json.choices[0];
    assert.equal(
      chunks.flatMap((chunk) => chunk.choices[0].token_ids),
      whole.token_ids,
    );
    assert.is(chunks.map((chunk) => chunk.choices[0].text).join(''), whole.text);
    assert.is(chunks.at(-1).choices[0].finish_reason, 'length');
    assert.is((await api.stream(completions, { ...body, stream_interval: 1000 })).length, 2);
  });
});

test('return_tokens_as_token_ids names tokens by their ids, with both kinds of logprobs', async () => {
  await withApi({}, async (api) => {
    const body = { ...greedy, return_tokens_as_token_ids: true, return_token_ids: true };
    const { json } = await api.post(completions, { ...body, prompt: text, logprobs: 1 });
    const { logprobs, token_ids } = json.choices[0];
    const names = token_ids.map((id: number) => `token_id:${id}`);
    assert.equal(logprobs.tokens, names);
    assert.equal(Object.keys(logprobs.top_logprobs[0]), [names[0]]);
    const inChat = await api.post(chat, { ...body, messages, logprobs: true, top_logprobs: 1 });
    const [choice] = inChat.json.choices;
    assert.equal(
      choice.logprobs.content.map((entry: Json) => entry.token),
      choice.token_ids.map((id: number) => `token_id:${id}`),
    );
  });
});

test('continuous usage counts up from the role, which is no token', async () => {
  await withApi({}, async (api) => {
    const stream_options = { include_usage: true, continuous_usage_stats: true };
    const chunks = await api.stream(chat, { ...greedy, messages, stream_options });
    const counts: number[] = chunks.map((chunk) => chunk.usage.completion_tokens);
    assert.equal([counts[0], counts.at(-2), counts.at(-1)], [0, 8, 8]);
    assert.equal(
      counts,
      [...counts].sort((a, b) => a - b),
    );
    // Without include_usage it means nothing, as with vLLM.
    const plain = await api.stream(chat, {
      ...greedy,
      messages,
      stream_options: { continuous_usage_stats: true },
    });
    assert.ok(plain.every((chunk) => chunk.usage === undefined));
  });
});

test('X-Request-Id comes back as a header; the body may name an id too', async () => {
  await withApi({}, async (api) => {
    const idOf = async (fields: object, headers: Record<string, string>) => {
      const response = await fetch(api.url + completions, {
        method: 'POST',
        body: JSON.stringify({ ...greedy, prompt: text, ...fields }),
        headers,
      });
      const { id } = (await response.json()) as { id: string };
      return [id, response.headers.get('x-request-id')];
    };
    assert.equal(await idOf({}, { 'x-request-id': 'a 1' }), ['cmpl-a 1', 'a 1']);
    assert.equal(await idOf({ request_id: 'b' }, {}), ['cmpl-b', 'b']);
    assert.equal(await idOf({ request_id: 'b' }, { 'x-request-id': 'a' }), ['cmpl-a', 'a']);
    assert.equal(await idOf({ request_id: 'ü\n' }, {}), ['cmpl-ü\n', null]);
    const [id, header] = await idOf({}, {});
    assert.is(id, `cmpl-${header}`);
  });
});

test('load counts what runs and what waits', async () => {
  await withApi({ scheduler: { maxNumSeqs: 1 } }, async (api) => {
    assert.equal((await api.get('/load')).json, { server_load: 0 });
    const controller = new AbortController();
    const body = JSON.stringify({ ...greedy, prompt: text, max_tokens: 1500, n: 3, temperature: 1 });
    const call = fetch(api.url + completions, { method: 'POST', body, signal: controller.signal });
    while (api.engine.state().numRunning === 0) await new Promise(setImmediate);
    assert.equal((await api.get('/load')).json, { server_load: 3 });
    controller.abort();
    await call.catch(() => {});
  });
});

test('a message has the parts that vLLM writes out, and goes back as history with all of them', async () => {
  await withApi({}, async (api) => {
    const first = await api.post(chat, { ...greedy, messages });
    const { message } = first.json.choices[0];
    assert.equal([message.refusal, message.reasoning, message.tool_calls], [null, null, undefined]);
    const history = [...messages, message, { role: 'user', content: 'go on' }];
    const again = await api.post(chat, { ...greedy, messages: history });
    const bare = history.map(({ role, content }) => ({ role, content }));
    const plain = await api.post(chat, { ...greedy, messages: bare });
    assert.is(again.json.choices[0].message.content, plain.json.choices[0].message.content);
    assert.is(again.json.usage.prompt_tokens, plain.json.usage.prompt_tokens);
  });
});

test('what a model thought reaches the chat template by either of its names', async () => {
  const template = '{% for m in messages %}{{ m.reasoning }} {{ m.reasoning_content }};{% endfor %}';
  await withModelFiles({ 'chat_template.jinja': template }, async (api) => {
    for (const name of ['reasoning', 'reasoning_content']) {
      const history = [{ role: 'assistant', content: 'a', [name]: 'so' }];
      const { json } = await api.post('/tokenize', { messages: history });
      assert.is(api.engine.tokenizer.decode(json.tokens), 'so so;', name);
    }
  });
});

test('echo of a chat: the last message goes before its continuation, in a chunk of its own', async () => {
  await withApi({}, async (api) => {
    const begun = { role: 'assistant', content: 'once upon' };
    const body = { ...greedy, messages: [...messages, begun], continue_final_message: true };
    const plain = (await api.post(chat, { ...body, add_generation_prompt: false })).json.choices[0].message;
    const echoed = (await api.post(chat, { ...body, echo: true })).json.choices[0].message;
    assert.equal([echoed.role, echoed.content], ['assistant', begun.content + plain.content]);
    const chunks = await api.stream(chat, { ...body, echo: true, return_prompt_text: true });
    const deltas = chunks.map((chunk) => chunk.choices[0].delta);
    assert.equal(deltas.slice(0, 2), [{ role: 'assistant', content: '' }, { content: begun.content }]);
    assert.is(deltas.map(({ content }) => content).join(''), echoed.content);
    assert.match(chunks[0].prompt_text, /once upon$/);
    assert.ok(chunks.slice(1).every((chunk) => chunk.prompt_text === undefined));
    // Somebody else spoke last: nothing to go on with.
    const answer = (await api.post(chat, { ...greedy, messages })).json.choices[0].message;
    const alone = (await api.post(chat, { ...greedy, messages, echo: true })).json.choices[0].message;
    assert.is(alone.content, answer.content);
    const asUser = { ...greedy, messages, echo: true, add_generation_prompt: false };
    const user = (await api.post(chat, asUser)).json.choices[0].message;
    assert.is(user.role, 'user');
    assert.ok(user.content.startsWith(text));
  });
});

test('seeds of 64 bits count, and -1 is no seed', async () => {
  await withApi({}, async (api) => {
    const draw = async (seed: string): Promise<string[]> => {
      const body = `{"prompt": "once", "temperature": 1, "max_tokens": 8, "n": 2, "seed": ${seed}}`;
      const { json } = await api.postText(completions, body);
      return json.choices.map((choice: Json) => choice.text);
    };
    const large = await draw('9223372036854775807');
    assert.equal(await draw('9223372036854775807'), large);
    assert.is(new Set([...large, ...(await draw('-9007199254740995'))]).size, 4);
    assert.not.equal(await draw('-1'), await draw('-1'));
  });
});

test('logprob_token_ids takes the place of the most likely ones, with the same probabilities', async () => {
  await withApi({}, async (api) => {
    const body = { ...greedy, messages, logprobs: true, top_logprobs: 20, return_tokens_as_token_ids: true };
    const idOf = ({ token }: Json) => Number(token.split(':')[1]);
    const first = ({ json }: { readonly json: Json }) => json.choices[0].logprobs.content[0].top_logprobs;
    const top: Json[] = first(await api.post(chat, body));
    const wanted = [top[19], top[7]];
    const logprob_token_ids = wanted.map(idOf);
    assert.equal(first(await api.post(chat, { ...body, logprob_token_ids })), wanted);
  });
});

function withTellingTemplate(
  work: (rendered: (body: object) => Promise<string>) => Promise<void>,
): Promise<void> {
  return withModelFiles({ 'chat_template.jinja': tellingTemplate }, (api) =>
    work(async (body) => {
      const { json } = await api.post('/tokenize', body);
      const answer = await api.post(chat, { ...greedy, ...body, return_token_ids: true });
      assert.is(answer.status, 200, answer.text);
      assert.equal(answer.json.prompt_token_ids, json.tokens);
      assert.type(answer.json.choices[0].message.content, 'string');
      return (await api.post('/detokenize', { tokens: json.tokens })).json.prompt;
    }),
  );
}

test('tools, tool calls and their results reach the chat template; the answer is text', async () => {
  await withTellingTemplate(async (rendered) => {
    const tool = (name: string) => ({ type: 'function', function: { name, parameters: { type: 'object' } } });
    const history = [
      { role: 'user', content: 'how warm is it' },
      {
        role: 'assistant',
        content: null,
        tool_calls: [
          { id: 'c1', type: 'function', function: { name: 'weather', arguments: '{"at": "sea"}' } },
          { id: 'c2', type: 'function', function: { name: 'now', arguments: '' } },
        ],
      },
      { role: 'tool', tool_call_id: 'c1', content: [{ type: 'text', text: '20' }] },
    ];
    const told =
      'user: how warm is it; assistant:  call weather {"at": "sea"} call now {}; tool: 20 for c1; ';
    assert.is(await rendered({ messages: history }), told);
    for (const tool_choice of [undefined, null, 'none', 'auto']) {
      const body = { messages: history, tools: [tool('weather'), tool('now')], tool_choice };
      assert.is(await rendered(body), `${told}tools weather now; `);
    }
    assert.is(await rendered({ messages: history, tools: [] }), told);
  });
});

test('documents, reasoning_effort and variables of the request reach the chat template', async () => {
  await withTellingTemplate(async (rendered) => {
    const body = { messages: [{ role: 'user', content: 'a' }] };
    assert.is(
      await rendered({ ...body, documents: [{ title: 'one', text: 'x' }] }),
      'user: a; documents one; ',
    );
    assert.is(await rendered({ ...body, reasoning_effort: 'low' }), 'user: a; effort low true; ');
    assert.is(await rendered({ ...body, reasoning_effort: 'none' }), 'user: a; effort none false; ');
    const chat_template_kwargs = { enable_thinking: false };
    const both = { ...body, reasoning_effort: 'low', chat_template_kwargs };
    assert.is(await rendered(both), 'user: a; effort low false; ');
  });
});

test("the model's sampling defaults hold where a request has none, and flags hold over both", async () => {
  const files = { 'generation_config.json': JSON.stringify({ temperature: 0, max_new_tokens: 3 }) };
  const ask = async (api: TestApi, where: string, fields: object): Promise<Json> =>
    (await api.post(where, { ...(where === chat ? { messages } : { prompt: text }), ...fields })).json;
  const told = async (api: TestApi, fields: object) =>
    (await ask(api, completions, { return_token_ids: true, ...fields })).choices[0].token_ids;
  await withModelFiles(files, async (api) => {
    const greedy = await told(api, { temperature: 0 });
    assert.is(greedy.length, 16);
    assert.equal(await told(api, {}), greedy);
    assert.not.equal(await told(api, { temperature: 2, seed: 1 }), greedy);
  });
  const overrideGenerationConfig = { top_k: 1, max_new_tokens: 5 };
  await withModelFiles(
    files,
    async (api) => {
      const greedy = await told(api, { temperature: 0 });
      assert.is(greedy.length, 5);
      assert.equal(await told(api, { seed: 1 }), greedy);
      assert.not.equal(await told(api, { seed: 1, top_k: 0 }), greedy);
      for (const fields of [{}, { max_tokens: 9 }, { max_completion_tokens: 9 }]) {
        assert.is((await ask(api, chat, fields)).usage.completion_tokens, 5, JSON.stringify(fields));
      }
      assert.is((await ask(api, chat, { max_tokens: 2 })).usage.completion_tokens, 2);
    },
    { generationConfig: 'vllm', overrideGenerationConfig },
  );
});

test('stop_reason: none for the end of sequence and for length, else what was found, as vLLM gives it', async () => {
  const generationConfig = JSON.stringify({ eos_token_id: [300, 301] });
  await withModelFiles({ 'generation_config.json': generationConfig }, async (api) => {
    const own = api.engine.tokenizer.idOf(api.engine.tokenizer.specialTokens.eos_token!)!;
    const cases = [
      { say: own, stop: null, reasons: ['stop', null] },
      // Further ids of generation_config.json stop like stop_token_ids.
      { say: 300, stop: null, reasons: ['stop', 300] },
      { say: 301, stop: null, reasons: ['stop', 301] },
      { say: 302, stop: [302], reasons: ['stop', 302] },
      { say: 302, stop: null, reasons: ['length', null] },
    ];
    for (const { say, stop, reasons } of cases) {
      const body = { ...greedy, ignore_eos: false, allowed_token_ids: [say], stop_token_ids: stop };
      for (const [where, prompt] of [
        [completions, { prompt: text }],
        [chat, { messages }],
      ] as const) {
        const [choice] = (await api.post(where, { ...body, ...prompt })).json.choices;
        assert.equal([choice.finish_reason, choice.stop_reason], reasons, `${where} says ${say}`);
        const { choices } = (await api.stream(where, { ...body, ...prompt })).at(-1);
        assert.equal([choices[0].finish_reason, choices[0].stop_reason], reasons);
      }
    }
  });
});

test.run();
