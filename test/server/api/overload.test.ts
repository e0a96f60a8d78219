// More than a node can take: what waits is bounded, what is refused says when to come back, and readers cannot stop it.
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { startApiServer } from '../../../src/server/api/api-server.js';
import { assertWhole, prompt, sleep, startEngine } from '../../engine/test-engine.js';
import { withApi } from './setup.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';

const path = '/v1/completions';
const long = (label: number) => ({
  prompt: prompt(40, label),
  max_tokens: 60,
  min_tokens: 60,
  ignore_eos: true,
  temperature: 0,
});

// Fails without checkRoom in Engine.generate and the handlers.
test('beyond max_waiting a request is a 429 that leaves nothing behind, and those before it are answered', async () => {
  await withApi({ scheduler: { maxNumSeqs: 1, maxWaiting: 2 } }, async (api) => {
    const replies = await Promise.all(Array.from({ length: 12 }, (_, i) => api.post(path, long(i))));
    const refused = replies.filter(({ status }) => status === 429);
    assert.ok(refused.length >= 1 && refused.length <= 9, `${refused.length} of 12 were refused`);
    assert.is(replies.filter(({ status }) => status === 200).length, 12 - refused.length);
    assert.equal([refused[0]!.json.error.type, refused[0]!.json.error.code], ['RateLimitError', 429]);
    assert.is((await api.post(path, long(99))).status, 200, 'there is room again');
  });
});

test('a request of more choices than could ever wait is a 400, not a 429 for ever', async () => {
  await withApi({ scheduler: { maxNumSeqs: 2, maxWaiting: 2 } }, async (api) => {
    const { status, json } = await api.post(path, { ...long(1), n: 5 });
    assert.equal([status, json.error.param], [400, 'n']);
    assert.is((await api.post(path, { ...long(1), n: 3 })).status, 200);
  });
});

test('priority decides who goes first where it was asked for, and is refused elsewhere', async () => {
  await withApi({ scheduler: { maxNumSeqs: 1, policy: 'priority' } }, async (api) => {
    const order: string[] = [];
    const call = async (name: string, priority: number) => {
      const { status } = await api.post(path, {
        ...long(priority + 50),
        max_tokens: 20,
        min_tokens: 20,
        priority,
      });
      assert.is(status, 200);
      order.push(name);
    };
    const calls = [call('running', 0)];
    while (api.engine.state().numRunning === 0) await sleep(1);
    calls.push(call('late', 7));
    while (api.engine.state().numWaiting < 1) await sleep(1);
    calls.push(call('early', -7));
    await Promise.all(calls);
    assert.equal(order, ['running', 'early', 'late']);
  });
  await withApi({}, async (api) => {
    const { status, json } = await api.post(path, { ...long(1), priority: 1 });
    assert.equal([status, json.error.param], [400, 'priority']);
    assert.is((await api.post(path, { ...long(1), priority: 0 })).status, 200);
    const header = (value: string) =>
      api.post(path, { ...long(1), priority: 1 }, { 'x-vllm-priority': value });
    assert.is((await header('0')).status, 200, 'the header holds over the body');
    for (const value of ['-3', 'soon', '1.5', '']) {
      const refused = await header(value);
      assert.equal([refused.status, refused.json.error.param], [400, 'priority'], value);
    }
  });
});

/** Choices with all that can be said about a token: some thirty megabytes, more than sockets keep. */
const talkative = {
  n: 64,
  max_tokens: 400,
  min_tokens: 400,
  logprobs: 20,
  return_token_ids: true,
  stream: true,
};

test('a client that does not read its stream keeps no block, no growing memory and no connection', async () => {
  const engine = await startEngine({ cache: { numBlocks: 1800 } });
  const limits = { stalledReaderMs: 1000 };
  const server = await startApiServer({ engine, host: '127.0.0.1', port: 0, limits });
  const accepted = once(server.server, 'connection') as Promise<[Socket]>;
  const client = connect(server.port, server.host);
  try {
    client.pause();
    client.on('error', () => {});
    const [socket] = await accepted;
    const body = JSON.stringify({ ...long(1), temperature: 1, ...talkative });
    client.write(`POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
    let mostBytes = 0;
    // Fails without watchReader in http-limits.ts: the connection would stay for ever.
    for (let i = 0; i < 1500 && !socket.destroyed; i += 1) {
      mostBytes = Math.max(mostBytes, socket.writableLength);
      await sleep(20);
    }
    assert.ok(socket.destroyed, 'the reader was cut off');
    // Fails without `await drained` in sse.ts: most of thirty megabytes would lie here.
    assert.ok(mostBytes < 2 ** 20, `${mostBytes} bytes were kept for it`);
    await assertWhole(engine);
    const answer = await fetch(`${server.url}${path}`, { method: 'POST', body: JSON.stringify(long(2)) });
    assert.is(answer.status, 200, 'others are served');
    await answer.text();
  } finally {
    client.destroy();
    await server.close();
    await engine.shutdown();
  }
});

test.run();
