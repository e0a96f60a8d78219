// Log probabilities of prompts: every token of such a prompt runs, in chunks that are bounded, and is told of once.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { remoteDecodeParams } from '../../src/kv-transfer/params.js';
import type { EngineCoreOutput } from '../../src/outputs.js';
import type { Request } from '../../src/request.js';
import { ledgerBins } from '../../src/wire.js';
import { PdPair } from './pd-pair.js';
import { type Step, scoresOf, TestNode, tokens } from './test-node.js';

const prompt = tokens('prompt', 100);
const scored = { promptTokenIds: prompt, promptLogprobs: 0, maxTokens: 3 };

function planOf({ output }: Step): string[] {
  return output.scheduled.map((entry) => `${entry.request.requestId}:${entry.numScheduledTokens}`);
}

/** Says so once, in the output with the first token. */
function assertScored(outputs: readonly EngineCoreOutput[], request: Request): void {
  const own = outputs.filter((output) => output.requestId === request.requestId);
  const said = own.map((output) => output.promptLogprobs);
  assert.equal(said[0], scoresOf(request.tokenIds.slice(0, request.numPromptTokens)));
  assert.ok(said.slice(1).every((scores) => scores === null));
}

test('nothing cached is read, the ledger sums, and what was computed is cached as ever', () => {
  const node = new TestNode();
  node.complete({ promptTokenIds: prompt });
  const before = node.scheduler.prefixCacheStats;
  const request = node.add(scored);
  const step = node.step();
  assert.equal(planOf(step), [`${request.requestId}:100`]);
  const { ledger, num_computed_tokens: numComputed } = request.prefillStats!;
  assert.is(
    ledgerBins.reduce((sum, bin) => sum + ledger[bin], 0),
    100,
  );
  assert.is(ledger.local_hit, 0);
  assert.is(numComputed, 100);
  assert.equal(node.scheduler.prefixCacheStats, before, 'nobody asked the cache');
  assertScored([...step.outputs, ...node.run()], request);

  assert.is(node.scheduler.resetPrefixCache({ onlyFree: false }), true);
  node.complete(scored);
  const { request: after } = node.complete({ promptTokenIds: prompt });
  assert.is(after.prefillStats!.ledger.local_hit, 96);
  node.assertEmpty();
});

test('who did not ask is told nothing, and a prompt of one token has nothing to tell', () => {
  const node = new TestNode();
  const plain = node.add({ promptTokenIds: prompt });
  const one = node.add({ ...scored, promptTokenIds: [5] });
  const outputs = node.run();
  assert.ok(outputs.every((output) => output.requestId === one.requestId || output.promptLogprobs === null));
  assert.ok(plain.isFinished);
  assertScored(outputs, one);
});

test('a step runs at most so many tokens of such requests, and as many of others as ever', () => {
  const node = new TestNode({ maxPromptLogprobs: 30 });
  const add = (requestId: string) => node.add({ ...scored, requestId, maxTokens: 1 });
  const [a, b] = [add('a'), add('b')];
  node.add({ requestId: 'c', promptTokenIds: tokens('c', 70), maxTokens: 6 });
  const steps: Step[] = [];
  while (node.scheduler.hasWork()) steps.push(node.step());
  assert.equal(steps.map(planOf), [
    ['a:30', 'c:70'],
    ['a:30', 'c:1'],
    ['a:30', 'c:1'],
    ['a:10', 'b:20', 'c:1'],
    ['b:30', 'c:1'],
    ['b:30', 'c:1'],
    ['b:20'],
  ]);
  const outputs = steps.flatMap((step) => step.outputs);
  for (const request of [a, b]) assertScored(outputs, request);
  node.assertEmpty();
});

test('decoding behind the prompt is not bounded', () => {
  const node = new TestNode({ maxPromptLogprobs: 1 });
  const requests = ['a', 'b', 'c'].map((requestId) =>
    node.add({ requestId, promptTokenIds: tokens(requestId, 2), promptLogprobs: 0, maxTokens: 8 }),
  );
  for (let i = 0; i < 6; i++) assert.is(node.step().output.totalNumScheduledTokens, 1 + Math.floor(i / 2));
  assert.equal(planOf(node.step()), ['a:1', 'b:1', 'c:1']);
  node.run();
  assert.ok(requests.every((request) => request.isFinished));
  node.assertEmpty();
});

test('one that waits for its turn can be aborted', () => {
  const node = new TestNode({ maxPromptLogprobs: 30 });
  node.add(scored);
  const request = node.add(scored);
  node.step();
  assert.is(request.status, 'RUNNING');
  assert.is(request.numComputedTokens, 0);
  assert.is(
    node.scheduler.finishRequest(request.requestId, 'FINISHED_ABORTED')!.finished,
    'FINISHED_ABORTED',
  );
  node.run();
  node.assertEmpty();
});

/** Every step to the end, with what was said and where the request's share of each step began. */
function follow(node: TestNode, request: Request) {
  const outputs: EngineCoreOutput[] = [];
  const begins: number[] = [];
  while (node.scheduler.hasWork()) {
    const step = node.step();
    outputs.push(...step.outputs);
    const share = step.output.scheduled.find((entry) => entry.request === request);
    if (share) begins.push(share.numComputedTokens);
  }
  return { outputs, begins };
}

test('preempted in the middle of its prompt, it begins anew and tells of each token once', () => {
  const node = new TestNode({ cache: { numBlocks: 10 }, maxPromptLogprobs: 4 });
  node.add({ promptTokenIds: tokens('a', 16), maxTokens: 60 });
  const request = node.add(scored);
  const { outputs, begins } = follow(node, request);
  assert.is(request.numPreemptions, 1);
  // The 25th share needs a seventh block.
  assert.equal(begins.slice(0, 26), [...Array.from({ length: 24 }, (_, i) => i * 4), 0, 4]);
  assertScored(outputs, request);
  assert.is(request.prefillStats!.ledger.new, 100);
  node.assertEmpty();
});

test('preempted behind its prompt, it reads the cache like others and says nothing more of the prompt', () => {
  const node = new TestNode({
    cache: { numBlocks: 11 },
    scheduler: { policy: 'priority' },
    maxPromptLogprobs: 30,
  });
  const request = node.add({ ...scored, priority: 1 });
  node.step();
  node.add({ promptTokenIds: tokens('a', 46), maxTokens: 40 });
  const { outputs, begins } = follow(node, request);
  assert.is(request.numPreemptions, 1);
  assert.equal(begins, [30, 60, 90, 64, 101]);
  assertScored(outputs, request);
  node.assertEmpty();
});

test('nothing is pulled from a peer, whose hold ends all the same', () => {
  const pair = new PdPair('bi');
  pair.d.complete({ promptTokenIds: prompt, maxTokens: 2 });
  const offer = pair.query(prompt);
  assert.is(offer.remote_num_tokens, 96);
  const { request, last } = pair.p.complete({ ...scored, kvTransferParams: offer, maxTokens: 1 });
  assert.is(request.prefillStats!.num_computed_tokens, 100);
  assertScored([last], request);
  pair.d.run();
  assert.is(pair.d.scheduler.state().numHolds, 0, 'the lease has ended');
  const params = last.kvTransferParams!;
  const decoded = pair.d.complete({ ...scored, kvTransferParams: params, maxTokens: 1 });
  assert.is(decoded.request.prefillStats!.num_decode_computed_tokens, 100);
  assertScored([decoded.last], decoded.request);
  for (const node of [pair.p, pair.d])
    assert.ok(node.pulls.every((pull) => pull.remoteBlockIds.length === 0));
  pair.assertEmpty();
});

test('P scores what it hands over, and D goes on as ever where it is not asked to', () => {
  const pair = new PdPair('uni');
  const p = pair.p.complete({ ...scored, kvTransferParams: remoteDecodeParams(), maxTokens: 1 });
  assertScored([p.last], p.request);
  const { stats } = pair.decode(prompt, p.last.kvTransferParams!, 2);
  assert.is(stats.num_decode_computed_tokens, 1);
  pair.assertEmpty();
});

test.run();
