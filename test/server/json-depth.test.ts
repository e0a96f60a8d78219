// Nesting is counted outside of strings only, and what nests too deep is refused before it is parsed.
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { sendError, sendJson } from '../../src/server/http-answer.js';
import { readJson } from '../../src/server/http-body.js';
import { nestsDeeperThan } from '../../src/server/json-depth.js';

const nested = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`;

test('lists and objects count, one beside the other does not, text in strings never', () => {
  const cases: readonly (readonly [string, number])[] = [
    ['[]', 1],
    ['{"a":[{}]}', 3],
    ['[[],[],[[]]]', 3],
    ['["[[[[", "\\"[[[[", "\\\\", []]', 2],
    [`["[${'\\"'.repeat(1000)}[[["]`, 1],
    ['{"[[[": "é[["}', 1],
    ['["[[[', 1],
  ];
  for (const [json, depth] of cases) {
    assert.not(nestsDeeperThan(Buffer.from(json), depth), json);
    assert.is(nestsDeeperThan(Buffer.from(json), depth - 1), true, json);
  }
});

test('a body of brackets is refused with a sentence and a nested one within reason is read', async () => {
  const server = createServer((req, res) => {
    readJson(req).then(
      (body) => sendJson(res, 200, body),
      (error: unknown) => sendError(res, error),
    );
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const post = async (body: string) => {
    const response = await fetch(url, { method: 'POST', body });
    return { status: response.status, text: await response.text() };
  };
  try {
    assert.equal(await post(nested(100)), { status: 200, text: nested(100) });
    const { status, text } = await post(nested(1_000_000));
    assert.is(status, 400);
    assert.match(text, 'nested at most 100 deep');
  } finally {
    server.close();
    server.closeAllConnections();
  }
});

test.run();
