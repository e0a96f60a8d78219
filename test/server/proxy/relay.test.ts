// What the proxy passes on, as it leaves the process.
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { beginEvents } from '../../../src/server/proxy/relay.js';

async function answered(answer: (res: ServerResponse) => void): Promise<string> {
  const server = createServer((_, res) => answer(res));
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  try {
    const response = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    return await response.text();
  } finally {
    server.close();
  }
}

// Fails without the uncork in beginEvents.
test("P's events are on their way to the client before anything is done for D", async () => {
  const events = Buffer.from('data: {"first":true}\n\n');
  let numBytesKept = -1;
  const text = await answered((res) => {
    beginEvents(res, { headers: { 'content-type': 'text/event-stream' } }, 'id', events);
    numBytesKept = res.socket!.writableLength;
    res.end('data: [DONE]\n\n');
  });
  assert.is(numBytesKept, 0);
  assert.is(text, 'data: {"first":true}\n\ndata: [DONE]\n\n');
});

test.run();
