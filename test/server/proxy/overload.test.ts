// Full and draining nodes behind a proxy: another one is asked, and a client that cannot be served is told when to come back.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { json, type Script } from './scripted-node.js';
import { completions, decodes, eventually, prefills, withProxy } from './setup.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';

const full: Script = {
  ...prefills,
  [completions]: (_call, res) => {
    res.setHeader('retry-after', '1');
    json(res, 429, { error: { message: 'Too many wait.', type: 'RateLimitError', param: null, code: 429 } });
  },
};

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

test.run();
