// P's first token at the proxy, when the nodes do not do what they should: what the client gets, and what D is told.
import type { ServerResponse } from 'node:http';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { json, type RecordedCall, type Script } from './scripted-node.js';
import {
  answerBody,
  completions,
  decodes,
  eventually,
  handOver,
  prefills,
  releasePath,
  streamEvents,
  withProxy,
} from './setup.js';

const request = { prompt: 'once upon', max_tokens: 8, n: 1, stream: true };
const first = 'data: {"choices":[{"text":" first"}]}\n\n';
const rest = ['data: {"choices":[{"text":" second"}]}\n\n', 'data: [DONE]\n\n'];
const token = { token_id: 5, logprobs: null, created: 7 };
const handedOver = {
  id: 'cmpl-1',
  object: 'kv_transfer.hand_over',
  kv_transfer_params: { ...handOver, remote_first_token: token },
  prompt_token_ids: [1, 2, 3],
};

/** A node of this project says so when it is probed. */
function own(script: Script): Script {
  return { ...script, '/health': (_, res) => void res.writeHead(200, { server: 'vllm-pd/0.0.0' }).end() };
}

const plainPrefill = prefills[completions]!;
const p: Script = own({
  ...prefills,
  [completions]: (call, res) => {
    const params = call.body.kv_transfer_params as { return_first_token?: boolean };
    if (!params.return_first_token) return plainPrefill(call, res);
    if (call.body.stream) streamEvents(res, [first, `data: ${JSON.stringify(handedOver)}\n\n`]);
    else json(res, 200, handedOver);
  },
});
const d: Script = own({
  ...decodes,
  [completions]: (call, res) => (call.body.stream ? streamEvents(res, rest) : json(res, 200, answerBody)),
});

function answering(script: Script, answer: (call: RecordedCall, res: ServerResponse) => void): Script {
  return { ...script, [completions]: answer };
}

const told = (call: RecordedCall | undefined) =>
  (call?.body.kv_transfer_params as { remote_first_token?: object } | undefined)?.remote_first_token;

test('P gets the request as it is, the client P’s events at once, D the token', async () => {
  let sendRest = () => {};
  const isRead = new Promise<void>((resolve) => {
    sendRest = resolve;
  });
  const late = answering(d, (_, res) => void isRead.then(() => streamEvents(res, rest)));
  await withProxy({ prefill: [p], decode: [late] }, {}, async ({ post, prefill, decode }) => {
    const response = await post(completions, request);
    const reader = response.body!.getReader();
    const { value } = await reader.read();
    assert.is(Buffer.from(value!).toString(), first, 'it does not wait for D');
    sendRest();
    let text = '';
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      text += Buffer.from(chunk.value).toString();
    }
    assert.is(text, rest.join(''));
    assert.is(response.headers.get('content-type'), 'text/event-stream; charset=utf-8');
    const { kv_transfer_params, ...sent } = prefill[0]!.callsTo(completions)[0]!.body;
    assert.equal(sent, request);
    assert.is((kv_transfer_params as { return_first_token: boolean }).return_first_token, true);
    const [call] = decode[0]!.callsTo(completions);
    assert.equal(told(call), { ...token, streamed: true });
    assert.equal(call!.body.prompt, [1, 2, 3], 'as P has encoded it');
  });
});

test('an answer that is not streamed is D’s as a whole', async () => {
  await withProxy({ prefill: [p], decode: [d] }, {}, async ({ post, decode }) => {
    const response = await post(completions, { ...request, stream: false });
    assert.equal(await response.json(), answerBody);
    assert.equal(told(decode[0]!.callsTo(completions)[0]), token);
  });
});

test('an answer that ends on P is the client’s, and D hears nothing of it', async () => {
  const ends = answering(p, (call, res) =>
    call.body.stream ? streamEvents(res, [first, 'data: [DONE]\n\n']) : json(res, 200, answerBody),
  );
  await withProxy({ prefill: [ends], decode: [d] }, {}, async ({ post, decode }) => {
    assert.is(await (await post(completions, request)).text(), `${first}data: [DONE]\n\n`);
    assert.equal(await (await post(completions, { ...request, stream: false })).json(), answerBody);
    assert.is(decode[0]!.callsTo(completions).length, 0);
    assert.is(decode[0]!.callsTo(releasePath).length, 0, 'P has read what D held');
  });
});

test('--first-token decode, and nodes of another kind, are asked as ever', async () => {
  const cases = [
    { prefill: p, decode: d, options: { firstToken: 'decode' } },
    { prefill: prefills, decode: d, options: {} },
    { prefill: p, decode: decodes, options: {} },
  ] as const;
  for (const { prefill: onP, decode: onD, options } of cases) {
    await withProxy({ prefill: [onP], decode: [onD] }, options, async ({ post, prefill, decode }) => {
      await (await post(completions, request)).text();
      assert.is(prefill[0]!.callsTo(completions)[0]!.body.max_tokens, 1);
      assert.equal(decode[0]!.callsTo(completions)[0]!.body.kv_transfer_params, handOver);
    });
  }
});

test('a D that dies before its first word is replaced, behind the token that the client has', async () => {
  const dies = answering(d, (_, res) => res.destroy());
  await withProxy({ prefill: [p], decode: [dies, d] }, {}, async ({ post, decode }) => {
    const response = await post(completions, { ...request, session_id: 's' });
    assert.is(await response.text(), first + rest.join(''));
    for (const node of decode) {
      assert.equal(told(node.callsTo(completions)[0]), { ...token, streamed: true });
    }
  });
});

test('a D of another kind does not go on with what the client has; without a stream it begins anew', async () => {
  const dies = answering(d, (_, res) => res.destroy());
  await withProxy({ prefill: [p], decode: [dies, decodes] }, {}, async ({ post, decode, prefill }) => {
    const text = await (await post(completions, { ...request, session_id: 's' })).text();
    assert.ok(text.startsWith(`${first}data: {"error":{"message":"The decode node`), text);
    assert.ok(text.endsWith('\n\ndata: [DONE]\n\n'), text);
    assert.is(decode[1]!.callsTo(completions).length, 0);
    assert.ok(await eventually(() => prefill[0]!.callsTo(releasePath).length === 1));
  });
  await withProxy({ prefill: [p], decode: [dies, decodes] }, {}, async ({ post, decode }) => {
    const response = await post(completions, { ...request, session_id: 's', stream: false });
    assert.equal(await response.json(), answerBody);
    assert.equal(decode[1]!.callsTo(completions)[0]!.body.kv_transfer_params, handOver);
  });
});

test('a D that refuses behind the first token: the client gets its sentence as an event', async () => {
  const error = { message: 'no room', type: 'BadRequestError', param: 'prompt', code: 400 };
  const refuses = answering(d, (_, res) => json(res, 400, { error }));
  await withProxy({ prefill: [p], decode: [refuses] }, {}, async ({ post, prefill }) => {
    const text = await (await post(completions, request)).text();
    assert.is(text, `${first}data: ${JSON.stringify({ error })}\n\ndata: [DONE]\n\n`);
    assert.ok(await eventually(() => prefill[0]!.callsTo(releasePath).length === 1));
  });
  const breaks = answering(d, (_, res) => void res.writeHead(500).end('oops'));
  await withProxy({ prefill: [p], decode: [breaks] }, {}, async ({ post }) => {
    const text = await (await post(completions, request)).text();
    assert.match(text, /^data: [^\n]* first[^\n]*\n\ndata: \{"error":[^\n]*500[^\n]*\n\ndata: \[DONE\]\n\n$/);
  });
});

test('a P whose answer is cut off or is none has given nothing: another one, or D, begins', async () => {
  const garbled = [
    answering(p, (_, res) => streamEvents(res, [first])),
    answering(p, (_, res) => streamEvents(res, [first, 'data: {"object":"kv_tr'])),
    answering(p, (_, res) => void res.writeHead(200).end('oops')),
  ];
  for (const broken of garbled) {
    await withProxy({ prefill: [broken, p], decode: [d] }, {}, async ({ post }) => {
      const response = await post(completions, { ...request, session_id: 's' });
      assert.is(await response.text(), first + rest.join(''));
    });
    await withProxy({ prefill: [broken], decode: [d] }, {}, async ({ post, decode }) => {
      assert.is(await (await post(completions, request)).text(), rest.join(''));
      assert.is(told(decode[0]!.callsTo(completions)[0]), undefined);
    });
  }
});

test('a client that leaves behind the first token ends D’s part', async () => {
  const hangs = answering(
    d,
    (_, res) => void res.writeHead(200, { 'content-type': 'text/event-stream' }).write(' '),
  );
  await withProxy({ prefill: [p], decode: [hangs] }, {}, async ({ post, decode }) => {
    const abort = new AbortController();
    const response = await post(completions, request, { signal: abort.signal });
    await response.body!.getReader().read();
    abort.abort();
    assert.ok(await eventually(() => decode[0]!.aborted.includes(completions)));
  });
});

test.run();
