// This project's proxy in front of vLLM nodes, and its nodes with what a vLLM node would hand over.
import type { ServerResponse } from 'node:http';
import { createServer, type Socket } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { withReachableHost } from '../../src/server/proxy/remote-host.js';
import { text, withApi } from '../server/api/setup.js';
import { json } from '../server/proxy/scripted-node.js';
import { withProxy } from '../server/proxy/setup.js';
import { streamBytes, vllmNode } from './vllm-node.js';
import { firstHop } from './vllm-proxies.js';

const chat = '/v1/chat/completions';
const completions = '/v1/completions';
const cacheQuery = '/v1/cache_query';
const onePair = () => ({ prefill: [vllmNode('prefill', true)], decode: [vllmNode('decode', true)] });
const messages = [{ role: 'user', content: 'Hello' }];
const answer = 'Once upon a time';

interface Call {
  readonly body: Readonly<Record<string, unknown>>;
}

function paramsOf({ body }: Call): Record<string, unknown> {
  return body.kv_transfer_params as Record<string, unknown>;
}

test('uni: both endpoints, whole and streamed, with the parameters of P unchanged', async () => {
  await withProxy(onePair(), { mode: 'uni' }, async ({ post, prefill, decode }) => {
    const calls = [
      { path: completions, body: { model: 'm', prompt: 'Hello', max_tokens: 4 } },
      { path: chat, body: { model: 'm', messages, max_completion_tokens: 4 } },
    ];
    for (const { path, body } of calls) {
      for (const stream of [false, true]) {
        const options = { stream: true, stream_options: { include_usage: true } };
        const response = await post(path, stream ? { ...body, ...options } : body);
        assert.is(response.status, 200);
        const received = await response.text();
        if (stream) assert.is(received, streamBytes(path, true));
        else assert.ok(received.includes(answer));
      }
      const [onP, onD] = [prefill[0]!, decode[0]!].map((node) => node.callsTo(path)[1]!);
      const { max_tokens, stream, ...asked } = onP!.body;
      assert.equal([max_tokens, stream, paramsOf(onP!)], [1, false, firstHop]);
      assert.not('stream_options' in asked);
      const handedOver = paramsOf(onD!);
      assert.equal(
        [handedOver.do_remote_prefill, handedOver.remote_host, handedOver.remote_port, handedOver.tp_size],
        [true, 'localhost', 5600, 2],
      );
      assert.equal([handedOver.dcp_size, handedOver.pp_size, handedOver.transfer_mode], [1, 1, 'pull']);
    }
    // What P encoded goes to D, from where vLLM puts it in either answer.
    assert.is((decode[0]!.callsTo(completions)[0]!.body.prompt as number[]).length, 40);
    assert.is((decode[0]!.callsTo(chat)[0]!.body.prompt_token_ids as number[]).length, 40);
  });
});

for (const lookup of ['query', 'ticket'] as const) {
  test(`bi, ${lookup}: a ticket in D's body goes to P in the next turn, once, and not to the client`, async () => {
    await withProxy(onePair(), { lookup }, async ({ post, prefill, decode }) => {
      const history = [...messages];
      for (let turn = 0; turn < 3; turn++) {
        const body = { model: 'm', messages: history, max_tokens: 4, conversation_id: 'c' };
        const received = (await (await post(chat, body)).json()) as Record<string, unknown>;
        assert.not('kv_transfer_params' in received);
        assert.ok(JSON.stringify(received).includes(answer));
        history.push({ role: 'assistant', content: answer }, { role: 'user', content: 'And then?' });
      }
      const [first, second, third] = prefill[0]!.callsTo(chat).map(paramsOf);
      assert.equal(first, firstHop);
      assert.equal(
        [second!.do_remote_decode, second!.do_remote_prefill, second!.remote_request_id],
        [true, false, 'cmpl-decode-1-0-5f3a9c1e'],
      );
      assert.equal([second!.remote_num_tokens, second!.tp_size, second!.remote_port], [43, 2, 5601]);
      assert.is(third!.remote_request_id, 'cmpl-decode-2-0-5f3a9c1e');
      // A node that has no such path is not asked again.
      assert.is(decode[0]!.callsTo(cacheQuery).length, lookup === 'query' ? 1 : 0);
    });
  });

  test(`bi, ${lookup}: a stream carries no ticket, so the next turn offers nothing and works`, async () => {
    await withProxy(onePair(), { lookup }, async ({ post, prefill }) => {
      const body = { model: 'm', messages, max_tokens: 4, stream: true, conversation_id: 'c' };
      for (let turn = 0; turn < 2; turn++) {
        assert.is(await (await post(chat, body)).text(), streamBytes(chat, false));
      }
      assert.equal(prefill[0]!.callsTo(chat).map(paramsOf), [firstHop, firstHop]);
    });
  });
}

const user = (content: unknown) => ({ role: 'user', content });
const assistant = (content: string, more: object = {}) => ({ role: 'assistant', content, ...more });
const next = user('And then?');

const histories: [name: string, path: string, prompt: object, isUsed: boolean][] = [
  ['goes on', chat, { messages: [...messages, assistant(answer), next] }, true],
  [
    'goes on, in parts',
    chat,
    { messages: [user([{ type: 'text', text: 'Hello' }]), assistant(answer), next] },
    true,
  ],
  [
    'comes back with what is empty',
    chat,
    { messages: [...messages, assistant(answer, { refusal: null }), next] },
    true,
  ],
  ['has another answer', chat, { messages: [...messages, assistant('Twice'), next] }, false],
  ['has another question', chat, { messages: [user('Hi'), assistant(answer), next] }, false],
  ['is asked again', chat, { messages }, false],
  ['has lost its beginning', chat, { messages: [assistant(answer), next] }, false],
  ['has tools now', chat, { messages: [...messages, assistant(answer), next], tools: [{}] }, false],
  [
    'is of another tenant',
    chat,
    { messages: [...messages, assistant(answer), next], cache_salt: 'b' },
    false,
  ],
  ['goes on', completions, { prompt: `Hello${answer} and` }, true],
  ['has changed', completions, { prompt: `Hello, ${answer} and` }, false],
  ['is ids', completions, { prompt: [1, 2, 3, 4] }, false],
];

// vLLM's P reads what a ticket names for its own prompt, unseen.
for (const [name, path, prompt, isUsed] of histories) {
  test(`${path}: the ticket of a conversation that ${name} is ${isUsed ? 'handed to P' : 'dropped'}`, async () => {
    await withProxy(onePair(), { lookup: 'ticket' }, async ({ post, proxy, prefill }) => {
      const body = { model: 'm', max_tokens: 4, conversation_id: 'c' };
      await (await post(path, { ...body, ...(path === chat ? { messages } : { prompt: 'Hello' }) })).text();
      assert.is((await post(path, { ...body, ...prompt })).status, 200);
      const [, offered] = prefill[0]!.callsTo(path).map(paramsOf);
      assert.is(offered!.remote_num_tokens === 43, isUsed);
      if (!isUsed) assert.equal(offered, firstHop);
      const counted = await (await fetch(`${proxy.url}/metrics`)).text();
      assert.match(counted, `proxy_lookups_total{result="${isUsed ? 'found' : 'changed'}"} 1`);
    });
  });
}

test("an answer's reasoning is no history that comes back: its ticket is dropped", async () => {
  const thinking = {
    ...vllmNode('decode', true),
    [chat]: (_: unknown, res: ServerResponse) =>
      json(res, 200, {
        choices: [{ index: 0, message: { role: 'assistant', content: answer, reasoning: 'Hm.' } }],
        kv_transfer_params: { do_remote_decode: true, remote_request_id: 'r', remote_num_tokens: 43 },
      }),
  };
  await withProxy({ ...onePair(), decode: [thinking] }, { lookup: 'ticket' }, async ({ post, prefill }) => {
    const body = { model: 'm', max_tokens: 4, conversation_id: 'c' };
    await (await post(chat, { ...body, messages })).text();
    await (await post(chat, { ...body, messages: [...messages, assistant(answer), next] })).text();
    assert.equal(prefill[0]!.callsTo(chat).map(paramsOf), [firstHop, firstHop]);
  });
});

test('bi, --unstreamed-decode: D is asked for whole answers, their tickets go to P, and clients get streams', async () => {
  await withProxy(onePair(), { unstreamedDecode: true }, async ({ post, prefill, decode }) => {
    const options = { stream: true, stream_options: { include_usage: true } };
    for (const path of [chat, completions]) {
      const isChat = path === chat;
      for (let turn = 0; turn < 2; turn++) {
        const history = turn === 0 ? messages : [...messages, { role: 'assistant', content: answer }];
        const prompt = isChat
          ? { messages: history }
          : { prompt: turn === 0 ? 'Hello' : `Hello${answer}, or` };
        const body = { model: 'm', ...prompt, max_tokens: 4, ...options, conversation_id: path };
        const response = await post(path, body);
        assert.match(response.headers.get('content-type')!, /^text\/event-stream/);
        const received = await response.text();
        assert.not.match(received, 'kv_transfer_params');
        const events = received.trim().split('\n\n');
        assert.is(events.at(-1), 'data: [DONE]');
        const chunks = events.slice(0, -1).map((event) => JSON.parse(event.slice('data: '.length)));
        const said = chunks.flatMap(({ choices }) => choices);
        const texts = said.map(({ delta, text }) => (isChat ? delta.content : text));
        assert.equal(texts, isChat ? ['', answer] : [answer]);
        if (isChat) assert.is(said[0].delta.role, 'assistant');
        assert.equal([said.at(-1).finish_reason, chunks.at(-1).choices], ['length', []]);
        assert.is(chunks.at(-1).usage.completion_tokens, 4);
        assert.is(chunks[0].object, isChat ? 'chat.completion.chunk' : 'text_completion');
      }
      const [first, second] = prefill[0]!.callsTo(path).map(paramsOf);
      assert.equal(first, firstHop);
      assert.equal([second!.do_remote_decode, second!.remote_num_tokens], [true, 43]);
      for (const call of decode[0]!.callsTo(path)) {
        assert.is(call.body.stream, false);
        assert.not('stream_options' in call.body);
      }
    }
    // Who names no conversation has no next turn, and gets the stream as it comes.
    const alone = await post(chat, { model: 'm', messages, max_tokens: 4, stream: true });
    assert.is(await alone.text(), streamBytes(chat, false));
    const refused = await post(chat, { model: 'other', messages, stream: true, conversation_id: 'x' });
    assert.is(refused.status, 404);
  });
});

test('several vLLM nodes: none is asked for prefixes twice, turns alternate', async () => {
  const nodes = {
    prefill: [vllmNode('prefill', true)],
    decode: [vllmNode('decode', true), vllmNode('decode', true)],
  };
  await withProxy(nodes, {}, async ({ post, decode }) => {
    for (let turn = 0; turn < 4; turn++) await (await post(chat, { model: 'm', messages })).text();
    for (const node of decode) {
      assert.is(node.callsTo(chat).length, 2);
      assert.is(node.callsTo(cacheQuery).length, 1);
    }
  });
});

test("vLLM's refusals reach the client as they are, and do not pass for a missing path", async () => {
  await withProxy(onePair(), {}, async ({ post, decode }) => {
    const response = await post(chat, { model: 'other', messages });
    assert.is(response.status, 404);
    const { error } = (await response.json()) as { error: unknown };
    assert.equal(error, {
      message: 'The model `other` does not exist.',
      type: 'NotFoundError',
      param: 'model',
      code: 404,
    });
    await (await post(chat, { model: 'm', messages })).text();
    assert.is(decode[0]!.callsTo(chat).length, 1);
  });
});

test('a node that calls itself localhost is named as the proxy reaches it, unless that is this machine', () => {
  const params = { do_remote_prefill: true, remote_host: 'localhost', remote_port: 5600 };
  assert.is(withReachableHost(params, 'http://10.0.0.2:8100').remote_host, '10.0.0.2');
  assert.is(withReachableHost(params, 'http://[fd00::2]:8100').remote_host, 'fd00::2');
  for (const url of ['http://127.0.0.1:8100', 'http://localhost:8100', 'http://[::1]:8100']) {
    assert.is(withReachableHost(params, url), params);
  }
  const named = { ...params, remote_host: '10.0.0.9' };
  assert.is(withReachableHost(named, 'http://10.0.0.2:8100'), named);
});

/** What libzmq says first on a new connection: the signature and version of ZMTP 3.1, then NULL security. */
const zmtpGreeting = Buffer.concat([
  Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1]),
  Buffer.from('NULL'.padEnd(20, '\0')),
  Buffer.alloc(32),
]);

test("a decode node that is handed a vLLM node's blocks cannot read them, and answers all the same", async () => {
  const sockets = new Set<Socket>();
  const sideChannel = createServer((socket) => {
    sockets.add(socket.on('error', () => {}));
    socket.write(zmtpGreeting);
  });
  await new Promise<void>((resolve) => {
    sideChannel.listen(0, '127.0.0.1', resolve);
  });
  const { port } = sideChannel.address() as { port: number };
  try {
    await withApi({ role: 'decode' }, async (api) => {
      const body = { prompt: text, temperature: 0, max_tokens: 8, ignore_eos: true };
      const expected = (await api.post(completions, { ...body, cache_salt: 'other' })).json.choices[0].text;
      const params = {
        do_remote_prefill: true,
        do_remote_decode: false,
        remote_block_ids: [[3, 4, 9]],
        remote_engine_id: '2f1c4b6e-0000-4000-8000-000000000001',
        remote_request_id: 'cmpl-1-0-5f3a9c1e',
        remote_host: '127.0.0.1',
        remote_port: port,
        tp_size: 2,
        remote_num_tokens: api.engine.tokenizer.encode(text).length,
        remote_blocks_expiry_time: null,
        transfer_mode: 'pull',
        dcp_size: 1,
        pp_size: 1,
      };
      const { status, json } = await api.post(completions, { ...body, kv_transfer_params: params });
      assert.equal([status, json.choices[0].text], [200, expected]);
      const nobody = { ...params, remote_port: 1 };
      const again = await api.post(completions, { ...body, cache_salt: 'third', kv_transfer_params: nobody });
      assert.equal([again.status, again.json.choices[0].text], [200, expected]);
    });
    assert.ok(sockets.size > 0);
  } finally {
    for (const socket of sockets) socket.destroy();
    sideChannel.close();
  }
});

test.run();
