// What one client can cost a server: each defence against real sockets.
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import { BodyBudget } from '../../src/server/body-budget.js';
import { createHttpServer, type HttpOptions, type HttpServer, type Route } from '../../src/server/http.js';
import { sendJson } from '../../src/server/http-answer.js';
import { readJson } from '../../src/server/http-body.js';
import { SseWriter } from '../../src/server/sse.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';

const echo: Route = {
  method: 'POST',
  path: '/echo',
  handler: async ({ req, res }) => sendJson(res, 200, await readJson(req)),
};
const health: Route = {
  method: 'GET',
  path: '/health',
  handler: ({ res, isDraining }) => sendJson(res, isDraining ? 503 : 200, {}),
};

async function withServer(
  routes: readonly Route[],
  options: HttpOptions,
  use: (server: HttpServer) => Promise<void>,
): Promise<void> {
  const server = await createHttpServer(routes, { host: '127.0.0.1', port: 0 }, options);
  try {
    await use(server);
  } finally {
    await server.close();
  }
}

/** A connection of its own, with everything that came back on it. */
async function dial(
  server: HttpServer,
): Promise<{ socket: Socket; received: () => string; closed: Promise<unknown> }> {
  const socket = connect(server.port, server.host);
  let text = '';
  socket.on('data', (chunk) => {
    text += String(chunk);
  });
  socket.on('error', () => {});
  const closed = once(socket, 'close');
  await once(socket, 'connect');
  return { socket, received: () => text, closed };
}

const quick = { headersTimeoutMs: 200, requestTimeoutMs: 400, checkIntervalMs: 50, stalledReaderMs: 200 };

// Fails without headersTimeout and requestTimeout in http.ts: Node's own are 60 and 300 seconds.
test('a client that sends its headers or its body byte by byte is cut off', async () => {
  const head = 'POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n';
  // Each limit by itself: the one of the whole request would cut off slow headers too, later.
  const cases = [
    [head, { ...quick, requestTimeoutMs: 120_000 }],
    [`${head}\r\n`, quick],
  ] as const;
  for (const [start, limits] of cases) {
    await withServer([echo], { limits }, async (server) => {
      const { socket, received, closed } = await dial(server);
      socket.write(start);
      const drip = setInterval(() => socket.write('a'), 20);
      await closed;
      clearInterval(drip);
      assert.match(received(), /^(HTTP\/1\.1 408|$)/);
    });
  }
});

// Fails without maxHeaderSize in http.ts.
test('headers beyond the limit are refused', async () => {
  await withServer([echo], { limits: { maxHeaderBytes: 2048 } }, async (server) => {
    const { socket, received, closed } = await dial(server);
    socket.write(`GET /echo HTTP/1.1\r\nhost: x\r\nbig: ${'a'.repeat(4096)}\r\n\r\n`);
    await closed;
    assert.match(received(), /^HTTP\/1\.1 431/);
  });
});

// Fails without maxHeadersCount in http-limits.ts: Node itself keeps 2000.
test('of more than a hundred headers the others are never looked at', async () => {
  const count: Route = {
    method: 'GET',
    path: '/count',
    handler: ({ req, res }) => sendJson(res, 200, { numHeaders: Object.keys(req.headers).length }),
  };
  await withServer([count], {}, async (server) => {
    const { socket, received, closed } = await dial(server);
    const headers = Array.from({ length: 300 }, (_, i) => `x-${i}: 1\r\n`).join('');
    socket.write(`GET /count HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${headers}\r\n`);
    await closed;
    assert.match(received(), /^HTTP\/1\.1 200/);
    const { numHeaders } = JSON.parse(received().split('\r\n\r\n')[1]!) as { readonly numHeaders: number };
    assert.is(numHeaders, 100);
  });
});

// Fails without maxConnections in http-limits.ts.
test('connections beyond the limit are closed, the others are served on', async () => {
  await withServer([health], { limits: { maxConnections: 2 } }, async (server) => {
    const held = [await dial(server), await dial(server)];
    const { closed } = await dial(server);
    await closed;
    held[0]!.socket.write('GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
    await held[0]!.closed;
    assert.match(held[0]!.received(), /^HTTP\/1\.1 200/);
    held[1]!.socket.destroy();
  });
});

// Fails without the budget in readBody.
test('bodies that come in at the same time have one limit together', async () => {
  const budget = new BodyBudget(10_000);
  const route: Route = {
    method: 'POST',
    path: '/kept',
    handler: async ({ req, res }) => sendJson(res, 200, await readJson(req, 10_000, budget)),
  };
  await withServer([route], {}, async (server) => {
    const post = () =>
      fetch(`${server.url}/kept`, { method: 'POST', body: JSON.stringify('a'.repeat(3000)) });
    assert.is((await post()).status, 200);
    const { socket, received, closed } = await dial(server);
    const head = 'POST /kept HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9000\r\n\r\n';
    socket.write(`${head}"${'a'.repeat(8000)}`);
    while ((await post()).status === 200) await new Promise((resolve) => setTimeout(resolve, 5));
    socket.write(`${'a'.repeat(998)}"`);
    await closed;
    assert.match(received(), /^HTTP\/1\.1 200/);
    assert.is((await post()).status, 200, 'what was taken is given back');
  });
});

const piece = 'x'.repeat(64 * 1024);

// Fails without watchReader in `drained`: the writer would wait for ever; without `await drained` it would never stop.
test('a stream whose client reads nothing stops early, is cut off, and its writer goes on', async () => {
  let numWritten = 0;
  let ended: () => void = () => {};
  const isOver = new Promise<void>((resolve) => {
    ended = resolve;
  });
  const stream: Route = {
    method: 'GET',
    path: '/stream',
    handler: async ({ res }) => {
      const sse = new SseWriter(res);
      // 640 MiB, if somebody took them.
      while (numWritten < 10_000 && !res.destroyed) {
        await sse.write(piece);
        numWritten += 1;
      }
      ended();
    },
  };
  await withServer([stream], { limits: quick }, async (server) => {
    const { socket } = await dial(server);
    socket.pause();
    socket.write('GET /stream HTTP/1.1\r\nhost: x\r\n\r\n');
    await isOver;
    assert.ok(numWritten < 1000, `${numWritten} pieces were written for nobody`);
    socket.destroy();
  });
});

// Fails without the 'prefinish' listener in http.ts.
test('a whole answer that nobody reads does not keep its connection either', async () => {
  const big: Route = {
    method: 'GET',
    path: '/big',
    handler: ({ res }) => sendJson(res, 200, piece.repeat(1000)),
  };
  await withServer([big], { limits: quick }, async (server) => {
    const numConnections = () =>
      new Promise<number>((resolve) => server.server.getConnections((_, count) => resolve(count)));
    const { socket } = await dial(server);
    socket.pause();
    socket.write('GET /big HTTP/1.1\r\nhost: x\r\n\r\n');
    while ((await numConnections()) === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    const givenUpAt = performance.now() + 10_000;
    while ((await numConnections()) > 0 && performance.now() < givenUpAt) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.is(await numConnections(), 0);
    socket.destroy();
  });
});

test('a client that reads slowly but reads is not cut off', async () => {
  const text = piece.repeat(300);
  const big: Route = { method: 'GET', path: '/big', handler: ({ res }) => sendJson(res, 200, text) };
  await withServer([big], { limits: quick }, async (server) => {
    const { socket, received, closed } = await dial(server);
    socket.write('GET /big HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
    const blink = setInterval(() => {
      socket.pause();
      setTimeout(() => socket.resume(), 40);
    }, 60);
    await closed;
    clearInterval(blink);
    assert.is(received().split('\r\n\r\n')[1]?.length, text.length + 2);
  });
});

const full: Route = {
  method: 'POST',
  path: '/full',
  handler: () => {
    throw new VllmPdError('QUEUE_FULL', 'Too many wait.');
  },
};

test('429 and 503 say when to come back', async () => {
  await withServer([full, echo], {}, async (server) => {
    const refused = await fetch(`${server.url}/full`, { method: 'POST', body: '{}' });
    assert.equal([refused.status, refused.headers.get('retry-after')], [429, '1']);
    const { error } = (await refused.json()) as { error: object };
    assert.equal(error, { message: 'Too many wait.', type: 'RateLimitError', param: null, code: 429 });
    await server.drain(0);
    const late = await fetch(`${server.url}/echo`, { method: 'POST', body: '{}' });
    assert.equal([late.status, late.headers.get('retry-after')], [503, '5']);
    await late.text();
  });
});

// Fails without #admit in http.ts.
test('a server that drains answers what it has, refuses what comes, and says so to probes', async () => {
  let answer: () => void = () => {};
  const slow: Route = {
    method: 'POST',
    path: '/slow',
    handler: async ({ res }) => {
      await new Promise<void>((resolve) => {
        answer = resolve;
      });
      sendJson(res, 200, { done: true });
    },
  };
  await withServer([slow, health], {}, async (server) => {
    const post = () => fetch(`${server.url}/slow`, { method: 'POST', body: '{}' });
    const running = post();
    while ((await fetch(`${server.url}/health`)).status !== 200);
    await new Promise((resolve) => setTimeout(resolve, 50));
    let isDrained = false;
    const drained = server.drain(10_000).then(() => {
      isDrained = true;
    });
    assert.is((await fetch(`${server.url}/health`)).status, 503);
    assert.is((await post()).status, 503);
    assert.is(isDrained, false);
    answer();
    assert.equal(await (await running).json(), { done: true });
    await drained;
  });
});

test('what does not end is not waited for longer than the drain timeout', async () => {
  const never: Route = { method: 'POST', path: '/never', handler: () => new Promise<void>(() => {}) };
  await withServer([never], {}, async (server) => {
    const lost = fetch(`${server.url}/never`, { method: 'POST', body: '{}' }).catch((error: Error) => error);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await server.drain(50);
    await server.close();
    assert.instance(await lost, Error);
  });
});

// Fails without `check` in http.ts.
test('with API keys every path but probes and scrapes needs one of them', async () => {
  await withServer([echo, health], { apiKeys: ['first-key', 'second-key'] }, async (server) => {
    const call = async (path: string, authorization?: string) => {
      const headers: Record<string, string> = authorization === undefined ? {} : { authorization };
      const response = await fetch(server.url + path, {
        method: path === '/echo' ? 'POST' : 'GET',
        headers,
        ...(path === '/echo' && { body: '{"a":1}' }),
      });
      return { status: response.status, headers: response.headers, text: await response.text() };
    };
    for (const wrong of [
      undefined,
      '',
      'first-key',
      'Basic first-key',
      'Bearer',
      'Bearer first-ke',
      'Bearer first-keyx',
    ]) {
      const { status, headers, text } = await call('/echo', wrong);
      assert.is(status, 401, String(wrong));
      assert.is(headers.get('www-authenticate'), 'Bearer');
      assert.equal([JSON.parse(text).error.type, JSON.parse(text).error.code], ['AuthenticationError', 401]);
      assert.not.match(text, /first-ke|second/);
    }
    for (const right of ['Bearer first-key', 'bearer second-key'])
      assert.is((await call('/echo', right)).status, 200);
    assert.is((await call('/health')).status, 200);
    assert.is((await call('/no-such-path')).status, 401, 'nobody learns what there is');
    assert.is((await call('/health/../echo')).status, 401);
  });
});

test.run();
