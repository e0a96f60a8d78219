// What a client sees when a node fails, lies or is slow, and what the proxy cleans up.
import type { ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../../src/errors.js';
import { startProxy } from '../../../src/server/proxy/proxy.js';
import { json, type Script, startScriptedNode } from './scripted-node.js';
import {
  answerBody,
  cacheQuery,
  completions,
  decodes,
  events,
  eventually,
  handOver,
  prefills,
  releasePath,
  withProxy,
} from './setup.js';

const request = { prompt: 'once upon', max_tokens: 8, stream: true };
const wholeStream = events.join('');

function failing(script: Script, path: string, status: number): Script {
  const error = { error: { message: 'no', type: 'Failure', param: null, code: status } };
  return { ...script, [path]: (_, res) => json(res, status, error) };
}

async function metric(proxyUrl: string, line: string): Promise<boolean> {
  return (await (await fetch(`${proxyUrl}/metrics`)).text()).includes(line);
}

test('P answers 500: another P takes the turn', async () => {
  const scripts = { prefill: [failing(prefills, completions, 500), prefills], decode: [decodes] };
  await withProxy(scripts, {}, async ({ proxy, post, prefill, decode }) => {
    const response = await post(completions, { ...request, session_id: 's' });
    assert.is(await response.text(), wholeStream);
    assert.equal(
      prefill.map((node) => node.callsTo(completions).length),
      [1, 1],
    );
    assert.equal(decode[0]!.callsTo(completions)[0]!.body.kv_transfer_params, handOver);
    const line = `vllm_pd:proxy_hop_failures_total{hop="prefill",node="${prefill[0]!.url}"} 1`;
    assert.ok(await metric(proxy.url, line));
  });
});

test('every P answers 500: D prefills by itself, and the lease for P is released', async () => {
  const scripts = { prefill: [failing(prefills, completions, 503)], decode: [decodes] };
  await withProxy(scripts, {}, async ({ post, decode }) => {
    const response = await post(completions, request);
    assert.is(await response.text(), wholeStream);
    assert.equal(decode[0]!.callsTo(completions)[0]!.body, request);
    assert.ok(await eventually(() => decode[0]!.callsTo(releasePath).length === 1));
    assert.equal(decode[0]!.callsTo(releasePath)[0]!.body, { lease_id: 'lease-1' });
  });
});

test('P is dead: D prefills, later turns do not even try P, and a P that is back is used again', async () => {
  await withProxy(
    { prefill: [prefills], decode: [decodes] },
    {},
    async ({ proxy, post, prefill, decode }) => {
      prefill[0]!.die();
      for (let i = 0; i < 2; i++) assert.is(await (await post(completions, request)).text(), wholeStream);
      assert.is(prefill[0]!.calls.length, 0);
      // The second turn knows that nobody would use a lease.
      assert.is(decode[0]!.callsTo(cacheQuery).length, 1);
      const health = await fetch(`${proxy.url}/health`);
      assert.is(health.status, 503);
      assert.match(await health.text(), 'no prefill node answers');
      const revived = await startScriptedNode(prefills, prefill[0]!.port);
      try {
        // Not by asking for /health, which asks the nodes: the proxy finds out by itself.
        const isBack = async () => {
          await (await post(completions, request)).text();
          return revived.callsTo(completions).length > 0;
        };
        assert.ok(await eventually(isBack));
        assert.is((await fetch(`${proxy.url}/health`)).status, 200);
      } finally {
        await revived.close();
      }
    },
  );
});

for (const status of [400, 404, 501]) {
  test(`P refuses the request with ${status}: the client gets P's answer as it is`, async () => {
    const scripts = { prefill: [failing(prefills, completions, status)], decode: [decodes] };
    await withProxy(scripts, {}, async ({ post, decode }) => {
      const response = await post(completions, request);
      assert.is(response.status, status);
      const { error } = (await response.json()) as { error: unknown };
      assert.equal(error, { message: 'no', type: 'Failure', param: null, code: status });
      assert.is(decode[0]!.callsTo(completions).length, 0);
      assert.ok(await eventually(() => decode[0]!.callsTo(releasePath).length === 1));
    });
  });
}

test('D refuses the request: the client gets its answer, and P need not hold the prompt any longer', async () => {
  const scripts = { prefill: [prefills], decode: [failing(decodes, completions, 400)] };
  await withProxy(scripts, {}, async ({ post, prefill }) => {
    assert.is((await post(completions, request)).status, 400);
    assert.ok(await eventually(() => prefill[0]!.callsTo(releasePath).length === 1));
    assert.equal(prefill[0]!.callsTo(releasePath)[0]!.body, { lease_id: 'held-by-p' });
  });
});

test('D dies before its answer begins: another D takes the turn with what P holds', async () => {
  const dying: Script = { ...decodes, [completions]: (_, res) => void res.destroy() };
  const scripts = { prefill: [prefills], decode: [dying, decodes] };
  await withProxy(scripts, {}, async ({ post, decode }) => {
    const turn = { ...request, session_id: 's' };
    assert.is(await (await post(completions, turn)).text(), wholeStream);
    assert.equal(decode[1]!.callsTo(completions)[0]!.body.kv_transfer_params, handOver);
    assert.is(await (await post(completions, turn)).text(), wholeStream);
    assert.equal(
      decode.map((node) => node.callsTo(completions).length),
      [1, 2],
    );
  });
});

test('D dies with headers sent but no event: another D still takes the turn', async () => {
  const dying: Script = {
    ...decodes,
    [completions]: (_, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('data: {"cho', () => res.destroy());
    },
  };
  await withProxy({ prefill: [prefills], decode: [dying, decodes] }, {}, async ({ post }) => {
    assert.is(await (await post(completions, { ...request, session_id: 's' })).text(), wholeStream);
  });
});

test('D dies in the middle of a JSON answer: another D gives the whole one', async () => {
  const dying: Script = {
    ...decodes,
    [completions]: (_, res) => {
      res.writeHead(200, { 'content-type': 'application/json', 'content-length': 1000 });
      res.write('{"id":', () => res.destroy());
    },
  };
  await withProxy({ prefill: [prefills], decode: [dying, decodes] }, {}, async ({ post }) => {
    const response = await post(completions, { prompt: 'a', session_id: 's' });
    assert.equal(await response.json(), answerBody);
  });
});

test('D dies in mid-stream: what came is kept, an error event follows, nothing is cut in two', async () => {
  const dying: Script = {
    ...decodes,
    [completions]: (_, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write(events[0]!);
      res.write('data: {"half', () => setTimeout(() => res.destroy(), 20));
    },
  };
  await withProxy({ prefill: [prefills], decode: [dying] }, {}, async ({ post, decode }) => {
    const text = await (await post(completions, request)).text();
    const [first, second, third] = text.split('\n\n');
    assert.is(`${first}\n\n`, events[0]);
    const { error } = JSON.parse(second!.slice('data: '.length)) as {
      error: { message: string; code: number };
    };
    assert.match(error.message, `decode node ${decode[0]!.url} does not answer`);
    assert.is(error.code, 502);
    assert.is(third, 'data: [DONE]');
  });
});

test('no D answers: 502 and a sentence that names the node', async () => {
  await withProxy({ prefill: [prefills], decode: [decodes] }, {}, async ({ post, prefill, decode }) => {
    decode[0]!.die();
    const response = await post(completions, request);
    assert.is(response.status, 502);
    const { error } = (await response.json()) as { error: { message: string; type: string } };
    assert.is(error.type, 'BadGatewayError');
    assert.match(error.message, `The decode node ${decode[0]!.url} does not answer`);
    assert.ok(await eventually(() => prefill[0]!.callsTo(releasePath).length === 1));
  });
});

test('D takes no more requests (503): another D does; without another the client hears it', async () => {
  const closing = failing(decodes, completions, 503);
  await withProxy({ prefill: [prefills], decode: [closing, decodes] }, {}, async ({ post }) => {
    assert.is(await (await post(completions, { ...request, session_id: 's' })).text(), wholeStream);
  });
  await withProxy({ prefill: [prefills], decode: [closing] }, {}, async ({ post }) => {
    assert.is((await post(completions, request)).status, 503);
  });
});

/** Connected, but dead to the world, from its first call on: what a stopped process looks like. */
function hanging(script: Script, path: string): Script {
  let hangs = false;
  return {
    ...script,
    [path]: () => {
      hangs = true;
    },
    '/health': (_, res) => {
      if (!hangs) res.writeHead(200).end();
    },
  };
}

const quickWatch = { watchIntervalMs: 50, probeTimeoutMs: 100 };

test('P hangs: D prefills by itself', async () => {
  const scripts = { prefill: [hanging(prefills, completions)], decode: [decodes] };
  await withProxy(scripts, quickWatch, async ({ post, decode }) => {
    assert.is(await (await post(completions, request)).text(), wholeStream);
    assert.equal(decode[0]!.callsTo(completions)[0]!.body, request);
  });
});

test('D hangs: another D takes the turn; without another the client gets 502', async () => {
  const hungThenWell = { prefill: [prefills], decode: [hanging(decodes, completions), decodes] };
  await withProxy(hungThenWell, quickWatch, async ({ post }) => {
    assert.is(await (await post(completions, { ...request, session_id: 's' })).text(), wholeStream);
  });
  const hung = { prefill: [prefills], decode: [hanging(decodes, completions)] };
  await withProxy(hung, quickWatch, async ({ post }) => {
    const response = await post(completions, request);
    assert.is(response.status, 502);
    assert.match(await response.text(), 'it missed 2 health probes in a row');
  });
});

test('a node that is slow but answers probes is waited for', async () => {
  const slow: Script = {
    ...prefills,
    [completions]: (call, res) => void setTimeout(() => prefills[completions]!(call, res), 500),
  };
  await withProxy(
    { prefill: [slow], decode: [decodes] },
    { watchIntervalMs: 20 },
    async ({ post, decode }) => {
      await (await post(completions, request)).text();
      assert.equal(decode[0]!.callsTo(completions)[0]!.body.kv_transfer_params, handOver);
    },
  );
});

for (const [what, answer] of [
  ['fails', (_: unknown, res: ServerResponse) => json(res, 500, {})],
  ['is too slow', () => {}],
  ['answers nonsense', (_: unknown, res: ServerResponse) => void res.end('<html>')],
  ['breaks off', (_: unknown, res: ServerResponse) => void res.destroy()],
] as const) {
  test(`a cache query that ${what}: the turn goes on without it`, async () => {
    const scripts = { prefill: [prefills], decode: [{ ...decodes, [cacheQuery]: answer }] };
    await withProxy(scripts, { queryTimeoutMs: 100 }, async ({ post, prefill }) => {
      const startedMs = performance.now();
      assert.is(await (await post(completions, request)).text(), wholeStream);
      assert.ok(performance.now() - startedMs < 1500);
      const { remote_request_id } = prefill[0]!.calls[0]!.body.kv_transfer_params as {
        remote_request_id?: string;
      };
      assert.is(remote_request_id, undefined);
    });
  });
}

test('a client that goes away while P works aborts P, and the lease is released', async () => {
  const silent: Script = { ...prefills, [completions]: () => {} };
  await withProxy({ prefill: [silent], decode: [decodes] }, {}, async ({ post, prefill, decode }) => {
    const controller = new AbortController();
    const response = post(completions, request, { signal: controller.signal }).catch(
      (error: Error) => error.name,
    );
    assert.ok(await eventually(() => prefill[0]!.calls.length === 1));
    controller.abort();
    assert.is(await response, 'AbortError');
    assert.ok(await eventually(() => prefill[0]!.aborted.includes(completions)));
    assert.ok(await eventually(() => decode[0]!.callsTo(releasePath).length === 1));
    assert.is(decode[0]!.callsTo(completions).length, 0);
  });
});

test('a client that goes away in mid-stream aborts D', async () => {
  const endless: Script = {
    ...decodes,
    [completions]: (_, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write(events[0]!);
    },
  };
  await withProxy({ prefill: [prefills], decode: [endless] }, {}, async ({ proxy, post, decode }) => {
    const controller = new AbortController();
    const response = await post(completions, request, { signal: controller.signal });
    const reader = response.body!.getReader();
    await reader.read();
    controller.abort();
    assert.ok(await eventually(() => decode[0]!.aborted.includes(completions)));
    const line = `vllm_pd:proxy_requests_total{endpoint="${completions}",code="499"} 1`;
    assert.ok(await metric(proxy.url, line));
  });
});

test('a slow client holds D back instead of filling the memory of the proxy', async () => {
  let numSent = 0;
  function* pour() {
    for (; numSent < 2000; numSent++) yield `data: ${JSON.stringify({ text: 'x'.repeat(65_536) })}\n\n`;
  }
  const pouring: Script = {
    ...decodes,
    [completions]: (_, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      Readable.from(pour()).pipe(res);
    },
  };
  await withProxy({ prefill: [prefills], decode: [pouring] }, {}, async ({ post }) => {
    const controller = new AbortController();
    const response = await post(completions, request, { signal: controller.signal });
    await response.body!.getReader().read();
    // Until nothing more is taken for a while: all of it, or what buffers hold.
    for (let before = -1; before < numSent; ) {
      before = numSent;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    assert.ok(numSent < 1000, `${numSent} events of 64 KiB were taken`);
    controller.abort();
  });
});

const badBodies: readonly (readonly [string, string, number])[] = [
  ['no JSON', '{"prompt": ', 400],
  ['an empty body', '', 400],
  ['a list', '[]', 400],
  ['a number', '7', 400],
  ['null', 'null', 400],
];
for (const [what, body, status] of badBodies) {
  test(`${what} as a body is refused before any node is asked`, async () => {
    await withProxy({ prefill: [prefills], decode: [decodes] }, {}, async ({ post, prefill, decode }) => {
      const response = await post(completions, body);
      assert.is(response.status, status);
      const { error } = (await response.json()) as { error: { type: string; message: string } };
      assert.is(error.type, 'BadRequestError');
      assert.match(error.message, /^Expected .*\.$/);
      assert.is(prefill[0]!.calls.length + decode[0]!.calls.length, 0);
    });
  });
}

test('an address that is none is refused by name', async () => {
  for (const address of ['localhost:8000', 'https://a', 'http://a/path', '']) {
    const options = { host: '127.0.0.1', port: 0, mode: 'bi', lookup: 'query', decodeUrls: [] } as const;
    try {
      await startProxy({ ...options, prefillUrls: [address] });
      assert.unreachable(address);
    } catch (error) {
      assert.ok(error instanceof VllmPdError);
      assert.is(error.code, 'INVALID_ARGUMENT');
      assert.match(error.message, `received \`${address}\``);
    }
  }
});

test('streamed events that D wrote in odd pieces arrive byte for byte', async () => {
  const odd: Script = {
    ...decodes,
    [completions]: async (_, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      for (const byte of Buffer.from('data: {"text":"é漢字"}\n\ndata: [DONE]\n\n')) {
        res.write(Buffer.from([byte]));
        await new Promise((resolve) => setImmediate(resolve));
      }
      res.end();
    },
  };
  await withProxy({ prefill: [prefills], decode: [odd] }, { lookup: 'ticket' }, async ({ post }) => {
    const text = await (await post(completions, request)).text();
    assert.is(text, 'data: {"text":"é漢字"}\n\ndata: [DONE]\n\n');
  });
});

test('many turns at once are all answered', async () => {
  await withProxy({ prefill: [prefills, prefills], decode: [decodes, decodes] }, {}, async ({ post }) => {
    const texts = await Promise.all(
      Array.from({ length: 40 }, async () => (await post(completions, request)).text()),
    );
    assert.equal(new Set(texts), new Set([wholeStream]));
  });
});

test.run();
