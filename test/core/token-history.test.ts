// What once had KV on a node is remembered beyond its blocks, within bounds.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BlockHasher } from '../../src/core/block-hash.js';
import { TokenHistory, type TokenHistoryLimits } from '../../src/core/token-history.js';
import { createRequest, type TestRequest, tokens } from './test-node.js';

const hasher = new BlockHasher(16, '0');

function prompt(promptTokenIds: number[], options: TestRequest = {}) {
  const request = createRequest({ promptTokenIds, ...options });
  hasher.extend(request);
  return request;
}

function createHistory(limits?: TokenHistoryLimits) {
  return new TokenHistory(hasher, limits);
}

test('an unknown prompt is not known', () => {
  assert.equal(createHistory().recall(prompt(tokens('a', 40))), {
    numFullBlockTokens: 0,
    numTokens: 0,
    previous: null,
  });
});

test('full blocks are known, and the tail of a sequence as a whole', () => {
  const history = createHistory();
  history.recordTokens(prompt(tokens('a', 40)), 40);
  const longer = history.recall(prompt(tokens('a', 100)));
  assert.is(longer.numFullBlockTokens, 32);
  assert.is(longer.numTokens, 40);
  const branched = history.recall(prompt([...tokens('a', 36), ...tokens('b', 60)]));
  assert.is(branched.numTokens, 32);
});

test('another salt makes other tokens', () => {
  const history = createHistory();
  history.recordTokens(prompt(tokens('a', 40), { cacheSalt: 'x' }), 40);
  assert.is(history.recall(prompt(tokens('a', 40))).numTokens, 0);
  history.recordSequence(prompt(tokens('a', 40), { cacheSalt: 'x', sessionId: 's' }), 40);
  assert.is(history.recall(prompt(tokens('a', 40), { sessionId: 's' })).previous, null);
});

test("a session's previous sequence is compared token by token", () => {
  const history = createHistory();
  history.recordSequence(prompt(tokens('a', 40), { sessionId: 's' }), 38);
  const next = prompt([...tokens('a', 20), ...tokens('b', 60)], { sessionId: 's' });
  assert.equal(history.recall(next), {
    numFullBlockTokens: 16,
    numTokens: 20,
    previous: { numTokens: 38, numCommonTokens: 20 },
  });
  assert.is(history.recall(prompt(next.tokenIds, { sessionId: 'other' })).previous, null);
});

test('the oldest hashes and sessions are forgotten first', () => {
  const history = createHistory({ maxHashes: 3, maxSessionTokens: 50 });
  const [a, b] = ['a', 'b'].map((label) => prompt(tokens(label, 32), { sessionId: label }));
  history.recordTokens(a!, 32);
  history.recordSequence(a!, 32);
  history.recordTokens(b!, 32);
  history.recordSequence(b!, 32);
  // The chain's later hash is still there, and it names the whole prefix.
  assert.is(history.recall(prompt(tokens('a', 32))).numTokens, 32);
  assert.is(history.recall(a!).previous, null);
  assert.ok(history.recall(b!).previous);
  history.recordTokens(prompt(tokens('c', 32)), 32);
  assert.is(history.recall(prompt(tokens('a', 32))).numTokens, 0);
});

test.run();
