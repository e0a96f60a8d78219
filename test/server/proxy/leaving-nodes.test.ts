// A node that is being stopped with its proxy does not answer any more: no news, where it is one of a node that is missed.

import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { logged } from '../../logged.js';

/** Addresses where nothing listens. */
async function deadUrls(): Promise<readonly string[]> {
  const servers = [createServer(), createServer()];
  for (const server of servers) await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const urls = servers.map((server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  for (const server of servers) await new Promise((resolve) => server.close(resolve));
  return urls;
}

test('only of nodes that are missed is said that they do not answer', async () => {
  const [missed, leaving] = await deadUrls();
  const script = `
    const times = { connectTimeoutMs: 1000, watchIntervalMs: 1000, probeTimeoutMs: 1000 };
    for (const url of ${JSON.stringify([missed, leaving])}) {
      const node = new ProxyNode({ role: 'decode', url, ...times });
      if (url === ${JSON.stringify(leaving)}) node.expectToLeave();
      await node.fetch({ method: 'GET', path: '/health' }).catch(() => {});
      await node.close();
    }`;
  const lines = logged('server/proxy/node.js', 'ProxyNode', script);
  assert.equal(
    lines.map(({ node, msg }) => [node, msg]),
    [[missed, 'node does not answer']],
  );
});

test.run();
