// What the proxy sends to whom in one turn, for each way of moving KV.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { firstHop } from '../../clients/vllm-proxies.js';
import { json, type Script } from './scripted-node.js';
import {
  cacheQuery,
  completions,
  decodes,
  events,
  eventually,
  handOver,
  leased,
  prefills,
  queryAnswer,
  releasePath,
  streamEvents,
  ticket,
  withProxy,
} from './setup.js';

const onePair = { prefill: [prefills], decode: [decodes] };
/** With an answer in it, so that D may hold something of it. */
const dialogue = ['user', 'assistant', 'user'].map((role) => ({ role, content: 'hi' }));
const request = {
  model: 'tiny',
  prompt: 'once upon',
  max_tokens: 8,
  temperature: 0,
  min_tokens: 4,
  n: 1,
  logprobs: 2,
  stream: true,
  stream_options: { include_usage: true },
};

test('uni: P makes one token without streaming, D gets the request and what P holds', async () => {
  await withProxy(onePair, { mode: 'uni' }, async ({ post, prefill, decode }) => {
    const response = await post(completions, request);
    assert.is(response.status, 200);
    assert.is(await response.text(), events.join(''));
    assert.equal(prefill[0]!.calls[0]!.body, {
      model: 'tiny',
      prompt: 'once upon',
      max_tokens: 1,
      temperature: 0,
      stream: false,
      return_token_ids: true,
      kv_transfer_params: firstHop,
    });
    assert.equal(decode[0]!.calls[0]!.body, { ...request, kv_transfer_params: handOver });
    assert.is(decode[0]!.callsTo(cacheQuery).length, 0);
  });
});

test('bi with queries: D is asked under a lease, P gets the answer', async () => {
  await withProxy(onePair, {}, async ({ post, prefill, decode }) => {
    await (await post(completions, request)).text();
    assert.equal(decode[0]!.callsTo(cacheQuery)[0]!.body, {
      model: 'tiny',
      prompt: 'once upon',
      lease: true,
      return_blocks: false,
      return_token_ids: true,
    });
    assert.equal(prefill[0]!.calls[0]!.body.kv_transfer_params, leased);
    assert.equal(decode[0]!.callsTo(completions)[0]!.body.kv_transfer_params, handOver);
    assert.is(decode[0]!.callsTo(releasePath).length, 0);
  });
});

test('bi with queries: P is told that D was asked and had nothing', async () => {
  const nothing = {
    ...decodes,
    [cacheQuery]: (_: unknown, res: Parameters<typeof json>[0]) => json(res, 200, queryAnswer(0)),
  };
  await withProxy({ prefill: [prefills], decode: [nothing] }, {}, async ({ post, prefill }) => {
    await (await post(completions, request)).text();
    assert.equal(prefill[0]!.calls[0]!.body.kv_transfer_params, { ...firstHop, remote_num_tokens: 0 });
  });
});

test('bi with tickets: the ticket of the last chunk goes to P in the next turn, once, and never to the client', async () => {
  const last = { choices: [], kv_transfer_params: ticket };
  const withTicket = {
    ...decodes,
    [completions]: (_: unknown, res: Parameters<typeof streamEvents>[0]) =>
      streamEvents(res, [events[0]!, `data: ${JSON.stringify(last)}\n\n`, events[2]!]),
  };
  await withProxy(
    { prefill: [prefills], decode: [withTicket] },
    { lookup: 'ticket' },
    async ({ post, prefill, decode }) => {
      const turn = { ...request, conversation_id: 'c1' };
      const first = await (await post(completions, turn)).text();
      assert.is(first, `${events[0]}data: {"choices":[]}\n\n${events[2]}`);
      await (await post(completions, turn)).text();
      await (await post(completions, { ...turn, conversation_id: 'c2' })).text();
      const told = prefill[0]!.calls.map((call) => call.body.kv_transfer_params);
      assert.equal(told, [firstHop, ticket, firstHop]);
      assert.is(decode[0]!.callsTo(cacheQuery).length, 0);
      assert.is(prefill[0]!.calls[0]!.body.session_id, 'c1');
      assert.not('conversation_id' in prefill[0]!.calls[0]!.body);
    },
  );
});

test('bi with tickets: a ticket in a JSON answer is kept too, and released when no conversation could use it', async () => {
  const choices = [{ index: 0, text: ' b' }];
  const withTicket = {
    ...decodes,
    [completions]: (_: unknown, res: Parameters<typeof json>[0]) =>
      json(res, 200, { id: 'x', choices, kv_transfer_params: ticket }),
  };
  await withProxy(
    { prefill: [prefills], decode: [withTicket] },
    { lookup: 'ticket' },
    async ({ post, prefill, decode }) => {
      const whole = { prompt: 'a', max_tokens: 2 };
      const response = await post(completions, { ...whole, session_id: 's' });
      assert.equal(await response.json(), { id: 'x', choices });
      await post(completions, { ...whole, prompt: 'a b c', session_id: 's' });
      assert.equal(prefill[0]!.calls[1]!.body.kv_transfer_params, ticket);
      await post(completions, whole);
      assert.ok(await eventually(() => decode[0]!.callsTo(releasePath).length === 1));
      assert.equal(decode[0]!.callsTo(releasePath)[0]!.body, { lease_id: 'held-by-d' });
    },
  );
});

test('a prompt that is to be scored runs on D alone, which is asked nothing before', async () => {
  const scored = [
    { ...request, echo: true },
    { ...request, stream: false, prompt_logprobs: 0 },
    { ...request, stream: false, prompt_logprobs: 3, session_id: 's' },
  ];
  const two = { prefill: [prefills], decode: [decodes, decodes] };
  for (const [options, nodes] of [
    [{ mode: 'uni' }, onePair],
    [{ mode: 'bi' }, onePair],
    [{ mode: 'bi', lookup: 'ticket' }, onePair],
    [{ mode: 'bi', decodeRouting: 'prefix' }, two],
    [{ mode: 'bi', decodeRouting: 'session' }, two],
  ] as const) {
    await withProxy(nodes, options, async ({ post, prefill, decode }) => {
      for (const body of scored) assert.is((await post(completions, body)).status, 200);
      assert.is(prefill[0]!.calls.length, 0);
      const asked = decode.flatMap((node) => node.calls.filter((call) => call.path !== '/health'));
      assert.equal(
        asked.map((call) => call.path),
        scored.map(() => completions),
      );
      assert.equal(
        new Set(asked.map((call) => JSON.stringify(call.body))),
        new Set(scored.map((body) => JSON.stringify(body))),
      );
      // Chunks of a stream have no place for them.
      await (await post(completions, { ...request, prompt_logprobs: 0 })).text();
      assert.is(prefill[0]!.callsTo(completions).length, 1);
    });
  }
});

test('parameters of clients are dropped, unless the proxy was told to trust them', async () => {
  const forged = { ...leased, remote_host: '10.0.0.1' };
  await withProxy(onePair, { mode: 'uni' }, async ({ post, prefill, decode }) => {
    await (await post(completions, { ...request, kv_transfer_params: forged })).text();
    assert.equal(prefill[0]!.calls[0]!.body.kv_transfer_params, firstHop);
    assert.equal(decode[0]!.calls[0]!.body.kv_transfer_params, handOver);
  });
  await withProxy(onePair, { trustKvTransferParams: true }, async ({ post, prefill, decode }) => {
    await (await post(completions, { ...request, kv_transfer_params: forged })).text();
    assert.equal(prefill[0]!.calls[0]!.body.kv_transfer_params, forged);
    assert.is(decode[0]!.calls.length, 0);
  });
});

test('chat turns go to the chat endpoint with max_completion_tokens 1, and X-Request-Id goes along', async () => {
  const chat = '/v1/chat/completions';
  const p = { ...prefills, [chat]: prefills[completions]! };
  const d = { ...decodes, [chat]: decodes[completions]! };
  await withProxy({ prefill: [p], decode: [d] }, {}, async ({ post, prefill, decode }) => {
    const body = { messages: dialogue, max_completion_tokens: 9 };
    const headers = { 'x-request-id': 'r-1', 'x-session-id': 's-1' };
    const response = await post(chat, body, { headers });
    assert.is(response.headers.get('x-request-id'), 'r-1');
    const sent = prefill[0]!.calls[0]!;
    assert.is(sent.path, chat);
    assert.is(sent.body.max_completion_tokens, 1);
    assert.is(sent.body.session_id, 's-1');
    assert.is(sent.headers['x-request-id'], 'r-1');
    assert.equal(decode[0]!.callsTo(cacheQuery)[0]!.body.messages, body.messages);
    assert.is(decode[0]!.callsTo(chat)[0]!.headers['x-request-id'], 'r-1');
  });
});

test('X-Vllm-Priority becomes the priority of every hop', async () => {
  await withProxy({ prefill: [prefills], decode: [decodes] }, {}, async ({ prefill, decode, post }) => {
    const init = { headers: { 'content-type': 'application/json', 'x-vllm-priority': '-7' } };
    await post(completions, { prompt: 'hi', priority: 3 }, init);
    for (const node of [prefill[0]!, decode[0]!]) assert.is(node.callsTo(completions)[0]!.body.priority, -7);
    const wrong = await post(completions, { prompt: 'hi' }, { headers: { 'x-vllm-priority': 'soon' } });
    assert.is(wrong.status, 400);
  });
});

test('a prompt is encoded once: by D when it is asked, else by P', async () => {
  const tokenIds = [5, 6, 7];
  const encodingP: Script = {
    ...prefills,
    [completions]: (_, res) =>
      json(res, 200, { choices: [{ prompt_token_ids: tokenIds }], kv_transfer_params: handOver }),
  };
  const encodingD: Script = {
    ...decodes,
    [cacheQuery]: (_, res) => json(res, 200, { ...queryAnswer(32), prompt_token_ids: tokenIds }),
  };
  const pair = { prefill: [encodingP], decode: [encodingD] };
  for (const mode of ['uni', 'bi'] as const) {
    await withProxy(pair, { mode }, async ({ post, prefill, decode }) => {
      await (await post(completions, request)).text();
      const [onP, onD] = [prefill[0]!, decode[0]!].map((node) => node.callsTo(completions)[0]!.body);
      assert.equal(onP!.prompt, mode === 'bi' ? tokenIds : request.prompt);
      assert.is(onP!.return_token_ids, mode === 'bi' ? undefined : true);
      assert.equal(onD!.prompt, tokenIds);
      await (await post(completions, { ...request, echo: true, logprobs: null })).text();
      assert.is(decode[0]!.callsTo(completions)[1]!.body.prompt, request.prompt);
      await (await post(completions, { ...request, prompt: [1, 2] })).text();
      assert.is(prefill[0]!.calls[2]!.body.return_token_ids, undefined);
    });
  }
  const chat = '/v1/chat/completions';
  const chatPair = {
    prefill: [{ [chat]: encodingP[completions]! }],
    decode: [{ ...encodingD, [chat]: decodes[completions]! }],
  };
  await withProxy(chatPair, {}, async ({ post, prefill, decode }) => {
    await post(chat, { messages: dialogue });
    for (const node of [prefill[0]!, decode[0]!]) {
      const { body } = node.callsTo(chat)[0]!;
      assert.equal(body.prompt_token_ids, tokenIds);
      assert.equal(body.messages, dialogue);
    }
  });
});

test('several prompts in one request go to D alone', async () => {
  await withProxy(onePair, {}, async ({ post, prefill, decode }) => {
    await post(completions, { prompt: ['one', 'two'], max_tokens: 2 });
    assert.is(prefill[0]!.calls.length, 0);
    assert.equal(decode[0]!.calls[0]!.body, { prompt: ['one', 'two'], max_tokens: 2 });
  });
});

test('a conversation stays on its nodes; others take turns', async () => {
  const pairs = { prefill: [prefills, prefills], decode: [decodes, decodes] };
  await withProxy(pairs, { mode: 'uni' }, async ({ post, prefill, decode }) => {
    for (let i = 0; i < 3; i++) await post(completions, { prompt: 'a', session_id: 'one' });
    for (let i = 0; i < 3; i++) await post(completions, { prompt: 'b', session_id: 'two' });
    assert.equal(
      prefill.map((node) => node.calls.map((call) => call.body.session_id)),
      [
        ['one', 'one', 'one'],
        ['two', 'two', 'two'],
      ],
    );
    assert.equal(
      decode.map((node) => node.calls.length),
      [3, 3],
    );
  });
});

test('without a conversation the node that holds most of the prompt is chosen', async () => {
  const holds = (numTokens: number) => ({
    ...decodes,
    [cacheQuery]: (_: unknown, res: Parameters<typeof json>[0]) => json(res, 200, queryAnswer(numTokens)),
  });
  const pairs = { prefill: [prefills], decode: [holds(0), holds(32), holds(16)] };
  await withProxy(pairs, {}, async ({ post, decode }) => {
    for (let i = 0; i < 3; i++) await post(completions, { prompt: 'a' });
    assert.equal(
      decode.map((node) => node.callsTo(completions).length),
      [0, 3, 0],
    );
    const leases = decode[1]!.callsTo(cacheQuery).map((call) => call.body.lease);
    assert.equal(leases, [false, true, false, true, false, true]);
  });
});

test.run();
