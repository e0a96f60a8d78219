// Full and draining nodes behind a proxy: another one is asked, and a client that cannot be served is told when to come back.
import { EventEmitter } from 'node:events';
import type { ServerResponse } from 'node:http';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { routingPolicies } from '../../../src/config.js';
import type { VllmPdError } from '../../../src/errors.js';
import { WaitingRoom } from '../../../src/server/proxy/waiting-room.js';
import { json, type Script } from './scripted-node.js';
import { completions, decodes, eventually, prefills, queryAnswer, withProxy } from './setup.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';

const full: Script = {
  ...prefills,
  [completions]: (_call, res) => {
    res.setHeader('retry-after', '1');
    json(res, 429, { error: { message: 'Too many wait.', type: 'RateLimitError', param: null, code: 429 } });
  },
};

/** Holds nothing, so that no policy prefers it. */
const noQuery: Script = { '/v1/cache_query': (_call, res) => json(res, 200, queryAnswer(0)) };

const turn = { prompt: 'once upon a time', max_tokens: 2 };

// Fails without `isFull` in turn.ts.
test('a prefill node whose queue is full gives way to another one', async () => {
  await withProxy({ prefill: [full, prefills], decode: [decodes] }, {}, async ({ prefill, post }) => {
    for (let i = 0; i < 4; i += 1) {
      const response = await post(completions, turn);
      assert.is(response.status, 200, await response.text());
    }
    assert.ok(prefill[1]!.calls.some(({ path }) => path === completions));
    assert.ok(
      prefill[0]!.calls.some(({ path }) => path === completions),
      'it is asked again',
    );
  });
});

test('when all queues are full the client gets the 429, and nothing stays held', async () => {
  await withProxy({ prefill: [full, full], decode: [decodes] }, {}, async ({ decode, post }) => {
    const response = await post(completions, turn);
    assert.equal([response.status, response.headers.get('retry-after')], [429, '1']);
    assert.match(await response.text(), /Too many wait/);
    assert.ok(
      await eventually(() => decode[0]!.calls.some(({ path }) => path === '/v1/cache_query/release')),
      'the lease on the decode node is released',
    );
  });
});

// Fails without 429 in #decodeOn.
test('a decode node whose queue is full gives way to another one', async () => {
  const fullDecode = { ...decodes, [completions]: full[completions]! };
  await withProxy({ prefill: [prefills], decode: [fullDecode, decodes] }, {}, async ({ post }) => {
    for (let i = 0; i < 4; i += 1) assert.is((await post(completions, turn)).status, 200);
  });
});

const failing = (status: number): Script => ({
  ...decodes,
  [completions]: (_call, res) => json(res, status, { error: { message: 'Not now.', code: status } }),
});

for (const status of [429, 503]) {
  for (const policy of routingPolicies) {
    test(`${policy}: nodes that answer ${status} give way in both phases, and the client notices nothing`, async () => {
      const busy = failing(status);
      const scripts = { prefill: [{ ...busy, ...noQuery }, prefills], decode: [busy, decodes] };
      const routing = { prefillRouting: policy, decodeRouting: policy };
      await withProxy(scripts, routing, async ({ prefill, decode, post, proxy }) => {
        for (let i = 0; i < 4; i += 1) {
          const response = await post(completions, turn);
          assert.is(response.status, 200, await response.text());
        }
        assert.is(prefill[1]!.callsTo(completions).length, 4);
        assert.is(decode[1]!.callsTo(completions).length, 4);
        const numRefused = prefill[0]!.callsTo(completions).length + decode[0]!.callsTo(completions).length;
        assert.ok(numRefused > 0, 'a refusing node was asked');
        const metrics = await (await fetch(`${proxy.url}/metrics`)).text();
        const failures = [...metrics.matchAll(/^vllm_pd:proxy_hop_failures_total\{[^}]*\} (\d+)/gm)];
        assert.is(
          failures.reduce((sum, [, count]) => sum + Number(count), 0),
          numRefused,
        );
      });
    });
  }
}

test('a turn that moves on goes to the node with the least to do', async () => {
  const waiting: (() => void)[] = [];
  const slow: Script = {
    ...decodes,
    [completions]: async (_call, res) => {
      await new Promise<void>((resolve) => waiting.push(resolve));
      json(res, 200, { choices: [] });
    },
  };
  const scripts = { prefill: [prefills], decode: [slow, failing(503), decodes] };
  await withProxy(scripts, { decodeRouting: 'round-robin' }, async ({ decode, post }) => {
    const first = post(completions, turn);
    assert.ok(await eventually(() => waiting.length === 1));
    // The second one's turn is the failing node's; of the two others the first is busy.
    assert.is((await post(completions, turn)).status, 200);
    assert.equal(
      decode.map((node) => node.callsTo(completions).length),
      [1, 1, 1],
    );
    for (const answer of waiting) answer();
    assert.is((await first).status, 200);
  });
});

// Fails without `room.enter` in proxy.ts.
test('past --max-waiting the proxy itself refuses turns, and says when to come back', async () => {
  const waiting: (() => void)[] = [];
  const slow: Script = {
    ...decodes,
    [completions]: async (call, res) => {
      if (call.body.stream) {
        res.writeHead(200, { 'content-type': 'text/event-stream' });
        res.write('data: {"choices":[{"text":" a"}]}\n\n');
      }
      await new Promise<void>((resolve) => waiting.push(resolve));
      if (call.body.stream) res.end('data: [DONE]\n\n');
      else json(res, 200, { choices: [] });
    },
  };
  await withProxy({ prefill: [prefills], decode: [slow] }, { maxWaiting: 2 }, async ({ prefill, post }) => {
    const streamed = await post(completions, { ...turn, stream: true });
    const running = [post(completions, turn), post(completions, turn)];
    assert.ok(await eventually(() => waiting.length === 3), 'an answer that has begun waits no longer');
    const numPrefills = prefill[0]!.calls.length;
    const refused = await post(completions, turn);
    assert.is(refused.status, 429);
    assert.ok(Number(refused.headers.get('retry-after')) >= 1);
    assert.match(await refused.text(), /RateLimitError/);
    assert.is(prefill[0]!.calls.length, numPrefills, 'no node hears of it');
    for (const answer of waiting) answer();
    for (const response of running) assert.is((await response).status, 200);
    await streamed.text();
    const last = post(completions, turn);
    assert.ok(await eventually(() => waiting.length === 4), 'there is room again');
    waiting[3]!();
    assert.is((await last).status, 200);
  });
});

test('Retry-After is about the time that a turn takes, within a minute', () => {
  let nowMs = 0;
  const room = new WaitingRoom(1, () => nowMs);
  const come = () => {
    const res = Object.assign(new EventEmitter(), { headersSent: false });
    room.enter(res as unknown as ServerResponse);
    return res;
  };
  const refusal = (): number | undefined => {
    try {
      come();
    } catch (error) {
      return (error as VllmPdError).retryAfterSeconds;
    }
    throw new Error('there was room');
  };
  const first = come();
  assert.is(refusal(), 1, 'before any turn has ended');
  nowMs += 7500;
  first.emit('close');
  const second = come();
  assert.is(refusal(), 8);
  nowMs += 1_000_000;
  second.emit('close');
  come();
  assert.is(refusal(), 60);
});

test('a proxy that drains finishes its turns, takes no more, and says so', async () => {
  let answer: () => void = () => {};
  const slow: Script = {
    ...decodes,
    [completions]: async (_call, res) => {
      await new Promise<void>((resolve) => {
        answer = resolve;
      });
      json(res, 200, { choices: [] });
    },
  };
  await withProxy({ prefill: [prefills], decode: [slow] }, {}, async ({ proxy, decode, post }) => {
    const running = post(completions, turn);
    await eventually(() => decode[0]!.calls.some(({ path }) => path === completions));
    const drained = proxy.drain(10_000);
    assert.is((await fetch(`${proxy.url}/health`)).status, 503);
    const late = await post(completions, turn);
    assert.equal([late.status, late.headers.get('retry-after')], [503, '5']);
    answer();
    assert.is((await running).status, 200);
    await drained;
  });
});

test('a proxy that closes tells the clients of turns under way, whose nodes have not ended them', async () => {
  const endless: Script = {
    ...decodes,
    [completions]: (call, res) => {
      if (!call.body.stream) return;
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('data: {"choices":[]}\n\n');
    },
  };
  await withProxy({ prefill: [prefills], decode: [endless] }, {}, async ({ proxy, decode, post }) => {
    const streamed = await post(completions, { ...turn, stream: true });
    const whole = post(completions, turn);
    await eventually(() => decode[0]!.calls.filter(({ path }) => path === completions).length === 2);
    await proxy.drain(0);
    await proxy.close();
    const events = (await streamed.text()).trim().split('\n\n');
    assert.is(events.at(-1), 'data: [DONE]');
    assert.match(events.at(-2)!, 'The proxy is shutting down.');
    const refused = await whole;
    assert.is(refused.status, 503);
    assert.match(await refused.text(), 'The proxy is shutting down.');
  });
});

test.run();
