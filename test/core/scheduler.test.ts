// The scheduler of one node, stepped by hand.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { EngineCoreOutput } from '../../src/outputs.js';
import {
  createRequest,
  type Step,
  TestNode,
  type TestNodeOptions,
  type TestRequest,
  tokens,
} from './test-node.js';

const createNode = (options: TestNodeOptions = {}) => new TestNode(options);

/** `id:numTokens` of each request in the step. */
function planOf({ output }: Step): string[] {
  return output.scheduled.map(
    ({ request, numScheduledTokens }) => `${request.requestId}:${numScheduledTokens}`,
  );
}

function outputOf(outputs: readonly EngineCoreOutput[], requestId: string): EngineCoreOutput {
  const found = outputs.find((output) => output.requestId === requestId);
  assert.ok(found, `there is no output of ${requestId}`);
  return found;
}

/** What the request answers when it is alone. */
function answerOf(options: TestRequest): number[] {
  const node = createNode();
  const { request } = node.complete(options);
  return request.tokenIds.slice(request.numPromptTokens);
}

// ---------------------------------------------------------------------------------------------- steps

test('a request is prefilled in one step, then decoded a token a step, then gone', () => {
  const node = createNode();
  const request = node.add({ requestId: 'a', promptTokenIds: tokens('a', 20), maxTokens: 3 });
  const first = node.step();
  assert.equal(planOf(first), ['a:20']);
  assert.is(first.output.scheduled[0]!.samples, true);
  assert.is(request.status, 'RUNNING');
  assert.is(outputOf(first.outputs, 'a').newTokenIds.length, 1);
  assert.is(outputOf(first.outputs, 'a').finished, null);
  assert.equal(planOf(node.step()), ['a:1']);
  const last = node.step();
  assert.is(outputOf(last.outputs, 'a').finished, 'FINISHED_LENGTH_CAPPED');
  assert.is(request.numTokens, 23);
  // The last token was never fed.
  assert.is(request.numComputedTokens, 22);
  assert.not.ok(node.scheduler.hasUnfinishedRequests());
  assert.not.ok(node.scheduler.hasWork());
  node.assertEmpty();
});

test('a long prompt is cut to the budget, and running requests come first', () => {
  const node = createNode({ scheduler: { maxNumBatchedTokens: 32 } });
  node.add({ requestId: 'a', promptTokenIds: tokens('a', 16), maxTokens: 10 });
  node.add({ requestId: 'b', promptTokenIds: tokens('b', 60), maxTokens: 2 });
  node.add({ requestId: 'c', promptTokenIds: tokens('c', 16), maxTokens: 2 });
  const first = node.step();
  assert.equal(planOf(first), ['a:16', 'b:16']);
  assert.is(first.output.scheduled[1]!.samples, false);
  assert.equal(
    first.outputs.map(({ requestId }) => requestId),
    ['a'],
  );
  assert.equal(planOf(node.step()), ['a:1', 'b:31']);
  assert.equal(planOf(node.step()), ['a:1', 'b:13', 'c:16']);
  node.run();
  node.assertEmpty();
});

test('no more than max_num_seqs requests run, and the next one follows when one ends', () => {
  const node = createNode({ scheduler: { maxNumSeqs: 2 } });
  for (const requestId of ['a', 'b', 'c'])
    node.add({ requestId, promptTokenIds: tokens(requestId, 8), maxTokens: 2 });
  assert.equal(planOf(node.step()), ['a:8', 'b:8']);
  assert.equal(planOf(node.step()), ['a:1', 'b:1']);
  assert.equal(planOf(node.step()), ['c:8']);
  node.run();
  node.assertEmpty();
});

test('blocks are found by others only after the step that filled them', () => {
  const node = createNode({ scheduler: { maxNumBatchedTokens: 64 } });
  const promptTokenIds = tokens('a', 40);
  node.add({ requestId: 'a', promptTokenIds, maxTokens: 2 });
  node.add({ requestId: 'b', promptTokenIds, maxTokens: 2 });
  assert.equal(planOf(node.step(() => assert.is(node.rows.size, 0))), ['a:40', 'b:24']);
  // b had begun by itself and goes on with its own blocks.
  assert.equal(planOf(node.step()), ['a:1', 'b:16']);
  node.add({ requestId: 'c', promptTokenIds, maxTokens: 2 });
  assert.equal(planOf(node.step()), ['b:1', 'c:8']);
  node.run();
  node.assertEmpty();
});

test('a hit leaves the last token: a whole block is run again when the prompt ends with one', () => {
  const node = createNode();
  const promptTokenIds = tokens('a', 48);
  node.complete({ promptTokenIds });
  node.add({ requestId: 'b', promptTokenIds, maxTokens: 1 });
  const step = node.step();
  assert.equal(planOf(step), ['b:16']);
  const { ledger } = outputOf(step.outputs, 'b').prefillStats!;
  assert.is(ledger.local_hit, 32);
  assert.is(ledger.last_token, 16);
  node.run();
  node.assertEmpty();
});

test('the statistics of a prefill come with the first token and stay', () => {
  const node = createNode({ scheduler: { maxNumBatchedTokens: 16 } });
  const request = node.add({ requestId: 'a', promptTokenIds: tokens('a', 24), maxTokens: 2 });
  assert.equal(node.step().outputs, []);
  assert.is(request.prefillStats, null);
  const stats = outputOf(node.step().outputs, 'a').prefillStats!;
  assert.is(stats.num_prompt_tokens, 24);
  assert.is(stats.num_computed_tokens, 24);
  assert.is(stats.num_recomputed_tokens, 0);
  assert.is(stats.num_remote_tokens, null);
  assert.is(outputOf(node.step().outputs, 'a').prefillStats, stats);
  node.run();
  node.assertEmpty();
});

test('a conversation on one node repeats nothing but the partial last block', () => {
  const node = createNode();
  const prompt = tokens('a', 40);
  const { request } = node.complete({ promptTokenIds: prompt, maxTokens: 21, sessionId: 's' });
  const { last } = node.complete({
    promptTokenIds: [...request.tokenIds, ...tokens('b', 9)],
    sessionId: 's',
  });
  // KV of 60 tokens, 48 of them in full blocks.
  const { ledger } = last.prefillStats!;
  assert.is(ledger.local_hit, 48);
  assert.is(ledger.partial_block, 12);
  assert.is(ledger.new, 10);
  node.assertEmpty();
});

test('a turn that was cut short does not stand for its session', () => {
  const node = createNode({ scheduler: { maxNumBatchedTokens: 32 } });
  node.complete({ promptTokenIds: tokens('a', 60), maxTokens: 1, sessionId: 's' });
  node.add({ requestId: 'cut', promptTokenIds: tokens('b', 60), sessionId: 's' });
  node.step();
  node.scheduler.finishRequest('cut', 'FINISHED_ABORTED');
  const promptTokenIds = [...tokens('a', 40), ...tokens('c', 60)];
  const { last } = node.complete({ promptTokenIds, maxTokens: 1, sessionId: 's' });
  const { ledger } = last.prefillStats!;
  assert.is(ledger.local_hit, 32);
  assert.is(ledger.partial_block, 8);
  assert.is(ledger.template_mismatch, 20);
  assert.is(ledger.new, 40);
  node.assertEmpty();
});

// ---------------------------------------------------------------------------------------------- stops

const promptTokenIds = tokens('stop', 20);
const [answer0, answer1, answer2] = answerOf({ promptTokenIds, maxTokens: 3 }) as [number, number, number];

interface StopCase {
  readonly name: string;
  readonly options: TestRequest;
  readonly numOutputTokens: number;
  readonly finished: string;
  readonly stopReason: number | null;
}

const stops: readonly StopCase[] = [
  {
    name: 'at the end of the sequence',
    options: { eosTokenIds: [answer1], ignoreEos: false, stopTokenIds: [answer1] },
    numOutputTokens: 2,
    finished: 'FINISHED_STOPPED',
    stopReason: null,
  },
  {
    name: 'not at its end when that is ignored',
    options: { eosTokenIds: [answer1], ignoreEos: true },
    numOutputTokens: 3,
    finished: 'FINISHED_LENGTH_CAPPED',
    stopReason: null,
  },
  {
    name: 'at a stop token',
    options: { stopTokenIds: [answer0] },
    numOutputTokens: 1,
    finished: 'FINISHED_STOPPED',
    stopReason: answer0,
  },
  {
    name: 'not before min_tokens',
    options: { stopTokenIds: [answer0, answer2], minTokens: 2 },
    numOutputTokens: 3,
    finished: 'FINISHED_STOPPED',
    stopReason: answer2,
  },
  {
    name: 'at max_tokens though min_tokens asks for more',
    options: { minTokens: 9 },
    numOutputTokens: 3,
    finished: 'FINISHED_LENGTH_CAPPED',
    stopReason: null,
  },
];

for (const { name, options, numOutputTokens, finished, stopReason } of stops) {
  test(`a request stops ${name}`, () => {
    const node = createNode();
    const { request, last } = node.complete({ promptTokenIds, maxTokens: 3, ...options });
    assert.is(request.numOutputTokens, numOutputTokens);
    assert.is(last.finished, finished);
    assert.is(last.stopReason, stopReason);
    node.assertEmpty();
  });
}

test('a request stops at max_model_len', () => {
  const node = createNode({ scheduler: { maxModelLen: 25 } });
  const { request, last } = node.complete({ promptTokenIds, maxTokens: 100 });
  assert.is(request.numTokens, 25);
  assert.is(last.finished, 'FINISHED_LENGTH_CAPPED');
  node.assertEmpty();
});

test('a request that outgrows the whole pool stops there instead of being preempted for ever', () => {
  const node = createNode({ cache: { numBlocks: 4 } });
  const { request, last } = node.complete({ promptTokenIds, maxTokens: 100 });
  assert.is(request.numTokens, 48);
  assert.is(request.numPreemptions, 0);
  assert.is(last.finished, 'FINISHED_LENGTH_CAPPED');
  node.assertEmpty();
});

// ---------------------------------------------------------------------------------------------- refusals

test('a prompt that can never fit ends FINISHED_IGNORED with a sentence, and the next one runs', () => {
  const node = createNode({ cache: { numBlocks: 4 }, scheduler: { maxModelLen: 60 } });
  node.add({ requestId: 'pool', promptTokenIds: tokens('a', 49) });
  node.add({ requestId: 'model', promptTokenIds: tokens('a', 60) });
  node.add({ requestId: 'fits', promptTokenIds: tokens('a', 48), maxTokens: 5 });
  const outputs = node.run();
  const pool = outputOf(outputs, 'pool');
  assert.is(pool.finished, 'FINISHED_IGNORED');
  assert.is(pool.error, 'Expected a prompt that fits in the KV cache of 48 tokens but received 49');
  assert.match(outputOf(outputs, 'model').error!, /fewer than 60 tokens \(max_model_len\) but received 60/);
  assert.is(outputs.at(-1)!.requestId, 'fits');
  assert.is(outputs.at(-1)!.finished, 'FINISHED_LENGTH_CAPPED');
  node.assertEmpty();
});

test('what is no request is refused without effect', () => {
  const node = createNode();
  node.add({ requestId: 'a' });
  assert.throws(() => node.add({ requestId: 'a' }), /Expected a new request id but a is in use/);
  assert.throws(() => node.add({ promptTokenIds: [] }), /at least one token/);
  assert.throws(() => node.add({ promptTokenIds: [1, -1] }), /received -1 at position 1/);
  assert.is(node.scheduler.state().numWaiting, 1);
  node.run();
  node.assertEmpty();
});

// ---------------------------------------------------------------------------------------------- preemption

test('when blocks run out the last request is preempted, and nobody is admitted in that step', () => {
  const node = createNode({ cache: { numBlocks: 6 } });
  const [a, b] = ['a', 'b'].map((requestId) =>
    node.add({ requestId, promptTokenIds: tokens(requestId, 30), maxTokens: 20 }),
  );
  assert.equal(planOf(node.step()), ['a:30', 'b:30']);
  for (let i = 0; i < 2; i += 1) node.step();
  node.add({ requestId: 'c', promptTokenIds: tokens('c', 4), maxTokens: 1 });
  // a takes the fifth block for its token 33; b finds none for its own.
  const step = node.step();
  assert.equal(planOf(step), ['a:1']);
  assert.is(b!.status, 'PREEMPTED');
  assert.is(b!.numPreemptions, 1);
  assert.is(b!.numComputedTokens, 0);
  assert.is(node.scheduler.stepStats.numPreemptions, 1);
  // b needs its 34 tokens' 3 blocks, c is behind it.
  assert.equal(planOf(node.step()), ['a:1']);
  const outputs = node.run();
  assert.is(outputOf(outputs, 'c').finished, 'FINISHED_LENGTH_CAPPED');
  for (const request of [a!, b!]) {
    const { requestId } = request;
    const alone = answerOf({ promptTokenIds: tokens(requestId, 30), maxTokens: 20 });
    assert.equal(request.tokenIds.slice(30), alone, `the answer of ${requestId} changed`);
  }
  node.assertEmpty();
});

test('a preempted request starts from a fresh lookup that includes its outputs, and its ledger stays', () => {
  const node = createNode({ cache: { numBlocks: 7 } });
  node.add({ requestId: 'a', promptTokenIds: tokens('a', 30), maxTokens: 35 });
  const b = node.add({ requestId: 'b', promptTokenIds: tokens('b', 30), maxTokens: 35 });
  while (b.status !== 'PREEMPTED') node.step();
  const stats = b.prefillStats;
  assert.is(b.numTokens, 49);
  let resumed: string[] = [];
  while (!resumed.some((entry) => entry.startsWith('b'))) resumed = planOf(node.step());
  // Its full blocks stayed cached as far as a did not take them.
  const [, numTokens] = resumed.find((entry) => entry.startsWith('b'))!.split(':');
  assert.ok(Number(numTokens) < 49, `all ${numTokens} tokens were computed again`);
  node.run();
  assert.is(b.prefillStats, stats);
  assert.is(b.prefillStats!.ledger.new, 30);
  assert.is(node.scheduler.prefixCacheStats.queries, 60);
  node.assertEmpty();
});

test('a request is admitted only if its whole prompt fits beside those that were begun', () => {
  const node = createNode({ cache: { numBlocks: 11 }, scheduler: { maxNumBatchedTokens: 32 } });
  node.add({ requestId: 'a', promptTokenIds: tokens('a', 96), maxTokens: 1 });
  node.add({ requestId: 'b', promptTokenIds: tokens('b', 80), maxTokens: 1 });
  assert.equal(planOf(node.step()), ['a:32']);
  node.step();
  assert.equal(planOf(node.step()), ['a:32']);
  assert.equal(planOf(node.step()), ['b:32']);
  node.run();
  node.assertEmpty();
});

test('a short prompt that would fit does not overtake a long one that does not', () => {
  const node = createNode({ cache: { numBlocks: 11 } });
  node.add({ requestId: 'running', promptTokenIds: tokens('a', 96), maxTokens: 3 });
  node.add({ requestId: 'long', promptTokenIds: tokens('b', 80), maxTokens: 1 });
  node.add({ requestId: 'short', promptTokenIds: tokens('c', 16), maxTokens: 1 });
  assert.equal(planOf(node.step()), ['running:96']);
  assert.equal(planOf(node.step()), ['running:1']);
  assert.equal(planOf(node.step()), ['running:1']);
  assert.equal(planOf(node.step()), ['long:80', 'short:16']);
  node.run();
  node.assertEmpty();
});

// ---------------------------------------------------------------------------------------------- aborts

test('a request can be ended while it waits, runs, or its step is under way', () => {
  const node = createNode({ scheduler: { maxNumSeqs: 2 } });
  for (const requestId of ['a', 'b', 'c']) {
    node.add({ requestId, promptTokenIds: tokens(requestId, 20), maxTokens: 9 });
  }
  node.step(() =>
    assert.is(node.scheduler.finishRequest('a', 'FINISHED_ABORTED')!.finished, 'FINISHED_ABORTED'),
  );
  assert.is(node.scheduler.finishRequest('c', 'FINISHED_ABORTED')!.finished, 'FINISHED_ABORTED');
  const stopped = node.scheduler.finishRequest('b', 'FINISHED_STOPPED', 'END')!;
  assert.is(stopped.finished, 'FINISHED_STOPPED');
  assert.is(stopped.stopReason, 'END');
  assert.ok(stopped.prefillStats);
  assert.is(node.scheduler.finishRequest('b', 'FINISHED_ABORTED'), null);
  node.assertEmpty();
});

test('what a step was to write for a request that ended in it is not taken for KV', () => {
  const node = createNode();
  node.add({ requestId: 'a', promptTokenIds: tokens('a', 40), maxTokens: 9 });
  const { outputs } = node.step(() => node.scheduler.finishRequest('a', 'FINISHED_ABORTED'));
  assert.equal(outputs, []);
  assert.is(node.scheduler.state().numCachedBlocks, 0);
  const { last } = node.complete({ promptTokenIds: tokens('a', 40) });
  assert.is(last.prefillStats!.ledger.new, 40);
  node.assertEmpty();
});

test('an aborted cache query is not answered', () => {
  const node = createNode();
  node.add({ requestId: 'q', cacheQuery: { lease: false } });
  assert.is(node.scheduler.finishRequest('q', 'FINISHED_ABORTED')!.finished, 'FINISHED_ABORTED');
  assert.equal(node.step().output.cacheQueryAnswers, []);
  node.assertEmpty();
});

test('a plan must be reported before the next one', () => {
  const node = createNode();
  node.add();
  node.scheduler.schedule();
  assert.throws(() => node.scheduler.schedule(), /Expected the step under way to be reported/);
});

// ---------------------------------------------------------------------------------------------- the prefix cache

test('prefix statistics count tokens at the first admission', () => {
  const node = createNode();
  node.complete({ promptTokenIds: tokens('a', 40) });
  node.complete({ promptTokenIds: tokens('a', 50) });
  assert.equal(node.scheduler.prefixCacheStats, {
    queries: 90,
    hits: 32,
    externalQueries: 0,
    externalHits: 0,
  });
  node.assertEmpty();
});

test('a reset makes everything unknown to lookups, and the ledger says evicted', () => {
  const node = createNode();
  node.complete({ promptTokenIds: tokens('a', 40) });
  node.add({ requestId: 'b', promptTokenIds: tokens('b', 40), maxTokens: 3 });
  node.step();
  assert.is(node.scheduler.resetPrefixCache({ onlyFree: false }), false);
  assert.is(node.scheduler.resetPrefixCache({ onlyFree: true }), true);
  node.run();
  assert.is(node.scheduler.state().numCachedBlocks, 2);
  const { last } = node.complete({ promptTokenIds: tokens('a', 50) });
  assert.is(last.prefillStats!.ledger.evicted, 32);
  assert.is(last.prefillStats!.ledger.partial_block, 8);
  assert.ok(node.scheduler.resetPrefixCache({ onlyFree: false }));
  assert.is(node.rows.size, 0);
  node.assertEmpty();
});

test('without prefix caching nothing is found and nothing is published', () => {
  const node = createNode({ cache: { enablePrefixCaching: false } });
  node.complete({ promptTokenIds: tokens('a', 40) });
  const { last } = node.complete({ promptTokenIds: tokens('a', 40) });
  assert.is(last.prefillStats!.ledger.local_hit, 0);
  assert.is(last.prefillStats!.ledger.evicted, 32);
  assert.is(node.rows.size, 0);
  node.assertEmpty();
});

test('a salt separates equal prompts', () => {
  const node = createNode();
  node.complete({ promptTokenIds: tokens('a', 40), cacheSalt: 'x' });
  const { last } = node.complete({ promptTokenIds: tokens('a', 40), cacheSalt: 'y' });
  assert.is(last.prefillStats!.ledger.new, 40);
  node.assertEmpty();
});

test('256 decoding requests are planned and digested fast', () => {
  const node = createNode({
    cache: { numBlocks: 256 * 34 + 1 },
    scheduler: { maxNumSeqs: 256, maxNumBatchedTokens: 1 << 20 },
  });
  const requests = Array.from({ length: 256 }, (_, i) =>
    createRequest({ promptTokenIds: tokens(`${i}`, 512), maxTokens: 1000 }),
  );
  for (const request of requests) node.scheduler.addRequest(request);
  const sampledTokenIds = new Map(requests.map(({ requestId }) => [requestId, 1]));
  const result = { sampledTokenIds, logprobs: new Map(), promptLogprobs: new Map(), kvConnectorOutput: null };
  const times = Array.from({ length: 30 }, () => {
    const startedAtMs = performance.now();
    node.scheduler.updateFromOutput(node.scheduler.schedule(), result);
    return performance.now() - startedAtMs;
  });
  const median = times.sort((x, y) => x - y)[15]!;
  // Takes a few tenths of a millisecond; the margin is for busy machines.
  assert.ok(median < 10, `${median} ms`);
});

test.run();
