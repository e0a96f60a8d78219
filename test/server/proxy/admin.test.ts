// What the proxy makes of its nodes' answers to what it passes on to all of them.
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { NodeAnswer } from '../../../src/server/proxy/admin.js';
import { startProxy } from '../../../src/server/proxy/proxy.js';

async function startFake(body: string): Promise<Server> {
  const server = createServer((req, res) => {
    req.resume();
    res.writeHead(200, { 'content-length': Buffer.byteLength(body) }).end(body);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

const urlOf = (server: Server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

interface ResetAnswer {
  readonly success: boolean;
  readonly nodes: readonly NodeAnswer[];
}

/** The proxy's answer to a reset when P and D answer so. */
async function reset(bodies: readonly [p: string, d: string]): Promise<ResetAnswer> {
  const [p, d] = [await startFake(bodies[0]), await startFake(bodies[1])];
  const proxy = await startProxy({
    host: '127.0.0.1',
    port: 0,
    prefillUrls: [urlOf(p)],
    decodeUrls: [urlOf(d)],
    mode: 'bi',
    lookup: 'query',
  });
  try {
    const response = await fetch(`${proxy.url}/reset_prefix_cache`, { method: 'POST' });
    assert.is(response.status, 200);
    return (await response.json()) as ResetAnswer;
  } finally {
    await proxy.close();
    for (const server of [p, d]) {
      server.closeAllConnections();
      server.close();
    }
  }
}

test('nodes that reset their caches and say nothing more, as vLLM’s do, count as done', async () => {
  const { success, nodes } = await reset(['', '']);
  assert.is(success, true);
  assert.equal(
    nodes.map((node) => [node.answer, node.error]),
    [
      [null, null],
      [null, null],
    ],
  );
});

test('a node that answers something else than JSON is reported beside the other one', async () => {
  const { success, nodes } = await reset(['<html>', '{"success":true}']);
  assert.is(success, false);
  assert.match(nodes[0]!.error!, /^Expected JSON but received <html>/);
  assert.equal(nodes[1]!.answer, { success: true });
});

test.run();
