// Loads and holds, stepped by hand between the schedulers of two nodes.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { remoteDecodeParams } from '../../src/kv-transfer/params.js';
import type { Request } from '../../src/request.js';
import type { KvTransferParams } from '../../src/wire.js';
import { type PairOptions, PdPair } from './pd-pair.js';
import { TestNode, type TestRequest, tokens } from './test-node.js';

const prompt = tokens('prompt', 200);

function createPair(options: PairOptions = {}): PdPair {
  return new PdPair('bi', options);
}

function handOver(pair: PdPair, promptTokenIds = prompt): KvTransferParams {
  return pair.prefill(promptTokenIds, remoteDecodeParams());
}

function addToD(pair: PdPair, kvTransferParams: KvTransferParams, options: TestRequest = {}): Request {
  return pair.d.add({ requestId: 'a', promptTokenIds: prompt, kvTransferParams, maxTokens: 5, ...options });
}

/** A prompt of 24 blocks, the first 12 of which P may pull from D. */
function addHalfLoaded(pair: PdPair, requestId: string): Request {
  pair.d.complete({ promptTokenIds: tokens(requestId, 193), maxTokens: 2 });
  const promptTokenIds = tokens(requestId, 384);
  return pair.p.add({
    requestId,
    promptTokenIds,
    kvTransferParams: pair.query(promptTokenIds),
    maxTokens: 1,
  });
}

function numScheduled(node: TestNode): number {
  return node.step().output.totalNumScheduledTokens;
}

/** The answer of a node that computes everything itself. */
function answerAlone(promptTokenIds: readonly number[], maxTokens: number): number[] {
  return new TestNode().complete({ promptTokenIds, maxTokens }).request.tokenIds.slice(promptTokenIds.length);
}

// ---------------------------------------------------------------------------------------------- loads

test('a request waits for remote KV without budget or slot, and runs one token in the pass that finds it loaded', () => {
  const pair = createPair({ d: { scheduler: { maxNumSeqs: 1 } } });
  const { d } = pair;
  const params = handOver(pair);
  d.add({ requestId: 'busy', promptTokenIds: tokens('busy', 20), maxTokens: 4 });
  assert.is(numScheduled(d), 20);
  d.holdsLoads = true;
  const request = addToD(pair, params);
  assert.is(numScheduled(d), 1);
  assert.is(request.status, 'WAITING_FOR_REMOTE_KVS');
  assert.is(d.scheduler.stepStats.numWaitingForRemoteKvs, 1);
  assert.is(d.scheduler.state().numPendingLoads, 1);
  assert.is(d.scheduler.state().numFreeBlocks, 100 - 2 - 13);
  assert.is(d.rows.size, 1, 'nothing of a load is published before it ended');
  d.run();
  assert.not.ok(d.scheduler.hasWork(), 'a load under way is nothing to schedule');
  assert.ok(d.scheduler.hasUnfinishedRequests());
  d.holdsLoads = false;
  d.step();
  assert.ok(d.scheduler.hasWork());
  const { output, outputs } = d.step();
  assert.equal(
    output.scheduled.map(({ numComputedTokens, numScheduledTokens }) => [
      numComputedTokens,
      numScheduledTokens,
    ]),
    [[199, 1]],
  );
  assert.is(outputs[0]!.prefillStats!.num_decode_computed_tokens, 1);
  d.run();
  assert.equal(request.tokenIds.slice(200), answerAlone(prompt, 5));
  pair.assertEmpty();
});

test('what a load brought is found by others once it ended, but not the block that is written once more', () => {
  const pair = createPair();
  const whole = tokens('whole', 64);
  const kvTransferParams = handOver(pair, whole);
  pair.d.add({ promptTokenIds: whole, kvTransferParams, maxTokens: 2 });
  pair.d.step();
  assert.is(pair.d.rows.size, 0);
  pair.d.step(() => assert.is(pair.d.rows.size, 3));
  assert.is(pair.d.rows.size, 4);
  pair.d.run();
  pair.assertEmpty();
});

test('only what D lacks is pulled, and the partial last block arrives with it', () => {
  const pair = createPair();
  pair.d.complete({ promptTokenIds: prompt.slice(0, 100) });
  const params = handOver(pair);
  const request = addToD(pair, params);
  pair.d.run();
  const [pull] = pair.d.pulls;
  assert.equal(pull!.remoteBlockIds, params.remote_block_ids![0]!.slice(6));
  assert.is(pull!.blockHashes.length, 7);
  assert.is(request.prefillStats!.num_decode_computed_tokens, 1);
  assert.equal(request.tokenIds.slice(200), answerAlone(prompt, 5));
  pair.assertEmpty();
});

test('a block that went stale cuts the load there, and the rest is computed', () => {
  const pair = createPair();
  const params = handOver(pair);
  const blockIds = params.remote_block_ids![0]!;
  pair.p.retract(blockIds[5]!);
  const request = addToD(pair, params);
  pair.d.run();
  assert.is(request.prefillStats!.num_decode_computed_tokens, 200 - 5 * 16);
  assert.equal(request.tokenIds.slice(200), answerAlone(prompt, 5));
  pair.d.assertEmpty();
});

test('a peer that is gone costs the whole computation and nothing else', () => {
  const pair = createPair();
  const params = handOver(pair);
  pair.d.isReachable = false;
  const request = addToD(pair, params);
  pair.d.run();
  assert.is(request.prefillStats!.num_decode_computed_tokens, 200);
  assert.is(request.prefillStats!.kv_bytes_p_to_d, 0);
  assert.equal(request.tokenIds.slice(200), answerAlone(prompt, 5));
  pair.d.assertEmpty();
  assert.is(pair.p.scheduler.state().numHolds, 1);
  pair.p.nowMs += 30_000;
  pair.assertEmpty();
});

test('with the policy to fail, a load that did not arrive ends the request with a sentence', () => {
  const pair = createPair({ transfer: { kvLoadFailurePolicy: 'fail' } });
  const params = handOver(pair);
  pair.d.isReachable = false;
  addToD(pair, params);
  const [output] = pair.d.run();
  assert.is(output!.finished, 'FINISHED_ERROR');
  assert.is(output!.error, 'The KV blocks of request a did not arrive (transfer_failed).');
  pair.d.assertEmpty();
  pair.p.nowMs += 30_000;
  pair.assertEmpty();
});

test('a report of failure that names no block is believed: nothing of the load is used', () => {
  const pair = createPair();
  pair.d.misreport = (finished, invalidBlockIds) => {
    invalidBlockIds.length = 0;
    return { ...finished, failure: 'failed' };
  };
  const request = addToD(pair, handOver(pair));
  pair.d.run();
  assert.is(request.prefillStats!.num_decode_computed_tokens, 200);
  pair.assertEmpty();
});

test('a block named invalid is not used though the load was reported as complete', () => {
  const pair = createPair();
  let invalidBlockId = -1;
  pair.d.misreport = (finished, invalidBlockIds) => {
    invalidBlockId = pair.d.pulls[0]!.localBlockIds[3]!;
    invalidBlockIds.push(invalidBlockId);
    pair.d.corrupt(invalidBlockId);
    return finished;
  };
  const request = addToD(pair, handOver(pair));
  pair.d.run();
  assert.is(request.prefillStats!.num_decode_computed_tokens, 200 - 3 * 16);
  assert.equal(request.tokenIds.slice(200), answerAlone(prompt, 5));
  pair.assertEmpty();
});

test('a block altered behind the verification would be noticed by the model of these tests', () => {
  const pair = createPair();
  const params = handOver(pair);
  pair.p.corrupt(params.remote_block_ids![0]![5]!);
  addToD(pair, params);
  assert.throws(() => pair.d.run(), /wrong KV at position 80 of a/);
});

test('the blocks of an aborted load stay taken until the load has ended', () => {
  const pair = createPair();
  const { d } = pair;
  d.holdsLoads = true;
  addToD(pair, handOver(pair));
  d.step();
  assert.is(d.scheduler.finishRequest('a', 'FINISHED_ABORTED')!.finished, 'FINISHED_ABORTED');
  d.run();
  assert.is(d.scheduler.state().numFreeBlocks, 100 - 13);
  assert.ok(d.scheduler.hasUnfinishedRequests());
  assert.is(d.scheduler.stepStats.numWaitingForRemoteKvs, 0);
  assert.throws(() => d.add({ requestId: 'a' }), /in use/);
  d.holdsLoads = false;
  d.step();
  assert.is(d.scheduler.state().numFreeBlocks, 100);
  assert.is(d.scheduler.state().numCachedBlocks, 0);
  assert.not.ok(d.scheduler.hasUnfinishedRequests());
  pair.assertEmpty();
});

test('a load that ended just before its request was aborted leaves nothing', () => {
  const pair = createPair();
  addToD(pair, handOver(pair));
  pair.d.step();
  pair.d.scheduler.finishRequest('a', 'FINISHED_ABORTED');
  assert.is(pair.d.scheduler.state().numFreeBlocks, 100);
  pair.assertEmpty();
});

test('a request that pulled is preempted: it starts from what is cached, and pulls no second time', () => {
  const pair = createPair({ d: { cache: { numBlocks: 17 } } });
  const { d } = pair;
  d.add({ requestId: 'first', promptTokenIds: tokens('first', 10), maxTokens: 60 });
  d.step();
  const request = addToD(pair, handOver(pair), { maxTokens: 40 });
  while (request.status !== 'PREEMPTED') d.step();
  const stats = request.prefillStats;
  d.run();
  assert.is(d.pulls.length, 1);
  assert.is(request.prefillStats, stats);
  assert.equal(request.tokenIds.slice(200), answerAlone(prompt, 40));
  pair.assertEmpty();
});

for (const arrival of ['together', 'one after the other']) {
  test(`loads that arrive ${arrival} are started only as far as all that were begun can be finished`, () => {
    // Each prompt has 24 blocks; each load brings 12 of them. Both loads fit, both prompts do not.
    const pair = createPair({ p: { cache: { numBlocks: 41 } } });
    const { p } = pair;
    p.holdsLoads = true;
    const requests = ['a', 'b'].map((label) => {
      const request = addHalfLoaded(pair, label);
      if (arrival !== 'together') p.step();
      return request;
    });
    p.step();
    const statuses = () => requests.map(({ status }) => status);
    assert.equal(statuses(), ['WAITING_FOR_REMOTE_KVS', 'WAITING']);
    assert.is(p.scheduler.state().numFreeBlocks, 40 - 12);
    p.holdsLoads = false;
    p.run();
    // a's blocks are held for D.
    assert.equal(statuses(), ['FINISHED_LENGTH_CAPPED', 'WAITING']);
    assert.not.ok(p.scheduler.hasWork(), 'nothing can be done before the hold ends');
    p.nowMs = p.scheduler.nextDeadlineMs()!;
    assert.ok(p.scheduler.hasWork());
    p.run();
    assert.is(requests[1]!.status, 'FINISHED_LENGTH_CAPPED');
    assert.is(requests[1]!.prefillStats!.ledger.pulled_from_d, 192);
    p.nowMs += 30_000;
    pair.assertEmpty();
  });
}

test('a load is not started with blocks that a prompt under way still needs', () => {
  const pair = createPair({ p: { cache: { numBlocks: 41 }, scheduler: { maxNumBatchedTokens: 64 } } });
  const { p } = pair;
  p.add({ promptTokenIds: tokens('long', 320), maxTokens: 1 });
  p.step();
  const request = addHalfLoaded(pair, 'a');
  p.step();
  // 8 of 40 blocks are taken and 24 would fit, but 12 more are needed.
  assert.is(request.status, 'WAITING');
  p.run();
  assert.is(request.status, 'FINISHED_LENGTH_CAPPED');
  p.nowMs += 30_000;
  pair.assertEmpty();
});

test('while a loaded request waits for blocks nobody else is admitted, and it goes first when there are some', () => {
  const pair = createPair({ p: { cache: { numBlocks: 41 } } });
  const { p } = pair;
  p.holdsLoads = true;
  const loaded = addHalfLoaded(pair, 'a');
  p.step();
  // Takes the 16 blocks that are not reserved, then grows into the others until it has to give way.
  const busy = p.add({ promptTokenIds: tokens('busy', 256), maxTokens: 300 });
  for (let i = 0; i < 20; i += 1) p.step();
  p.holdsLoads = false;
  p.step();
  const small = p.add({ promptTokenIds: tokens('small', 8), maxTokens: 1 });
  p.step();
  assert.equal([loaded.status, small.status], ['WAITING', 'WAITING']);
  while (busy.status !== 'PREEMPTED') p.step();
  assert.is(loaded.status, 'WAITING', 'nobody is admitted in a step that preempted');
  assert.ok(p.scheduler.hasWork(), 'the loaded request can go now');
  p.step();
  assert.is(loaded.status, 'FINISHED_LENGTH_CAPPED');
  p.nowMs += 30_000;
  p.run();
  assert.is(busy.numOutputTokens, 300);
  p.nowMs += 30_000;
  pair.assertEmpty();
});

test('a block that failed once is good for another load', () => {
  const pair = createPair({ d: { cache: { numBlocks: 14 } } });
  for (const [label, isReachable, numComputed] of [
    ['a', false, 200],
    ['b', true, 1],
  ] as const) {
    const promptTokenIds = tokens(label, 200);
    const kvTransferParams = handOver(pair, promptTokenIds);
    pair.d.isReachable = isReachable;
    const { last } = pair.d.complete({ promptTokenIds, kvTransferParams, maxTokens: 1 });
    assert.is(last.prefillStats!.num_decode_computed_tokens, numComputed);
    assert.ok(pair.d.scheduler.resetPrefixCache({ onlyFree: false }));
  }
  assert.equal(pair.d.pulls[0]!.localBlockIds.toSorted(), pair.d.pulls[1]!.localBlockIds.toSorted());
  pair.p.nowMs += 30_000;
  pair.assertEmpty();
});

test('a request that is stopped while it loads offers nothing to others', () => {
  const pair = createPair();
  const { p } = pair;
  p.complete({ promptTokenIds: tokens('a', 100), maxTokens: 1 });
  p.holdsLoads = true;
  addHalfLoaded(pair, 'a');
  p.step();
  assert.is(p.scheduler.finishRequest('a', 'FINISHED_STOPPED')!.kvTransferParams, null);
  assert.is(p.scheduler.state().numHolds, 0);
  p.holdsLoads = false;
  pair.assertEmpty();
});

test('statistics that cannot be of this prompt are not completed but replaced', () => {
  const pair = createPair();
  const { remote_prefill_stats } = handOver(pair, tokens('other', 100));
  const params = { ...handOver(pair), remote_prefill_stats: remote_prefill_stats! };
  const request = addToD(pair, params);
  pair.d.run();
  assert.is(request.prefillStats!.num_prompt_tokens, 200);
  assert.is(request.prefillStats!.ledger.new, 200);
  assert.is(request.prefillStats!.num_decode_computed_tokens, 1);
  pair.p.nowMs += 30_000;
  pair.assertEmpty();
});

test('a loaded request goes before those that wait', () => {
  const pair = createPair({ d: { scheduler: { maxNumSeqs: 1 } } });
  const { d } = pair;
  d.add({ requestId: 'busy', promptTokenIds: tokens('busy', 20), maxTokens: 4 });
  d.step();
  const loaded = addToD(pair, handOver(pair));
  const waiting = d.add({ promptTokenIds: tokens('waiting', 20), maxTokens: 2 });
  while (loaded.status !== 'RUNNING') d.step();
  assert.is(waiting.status, 'WAITING');
  d.run();
  pair.assertEmpty();
});

test('a node without a connector ignores what it is told of peers', () => {
  const pair = createPair();
  const node = new TestNode();
  const { last } = node.complete({ promptTokenIds: prompt, kvTransferParams: handOver(pair), maxTokens: 5 });
  assert.is(last.kvTransferParams, null);
  assert.is(last.prefillStats!.num_decode_computed_tokens, 200);
  node.assertEmpty();
});

// ---------------------------------------------------------------------------------------------- holds

test('P keeps exactly the blocks with KV, shows the partial one while it does, and frees them once D has read', () => {
  const pair = createPair();
  const params = handOver(pair);
  const blockIds = params.remote_block_ids![0]!;
  assert.is(params.remote_num_tokens, 200);
  assert.is(blockIds.length, 13);
  assert.is(pair.p.rows.size, 13);
  assert.is(pair.p.scheduler.state().numCachedBlocks, 12);
  assert.is(pair.p.scheduler.state().numFreeBlocks, 100 - 13);
  assert.is(pair.p.scheduler.resetPrefixCache({ onlyFree: false }), false);
  addToD(pair, params);
  pair.d.run();
  pair.p.step();
  assert.is(pair.p.scheduler.state().numHolds, 0);
  assert.is(pair.p.rows.size, 12);
  assert.is(pair.p.scheduler.state().numFreeBlocks, 100);
  pair.assertEmpty();
});

test('a hold that nobody reads ends at its deadline, and a notification after that changes nothing', () => {
  const pair = createPair({ transfer: { kvLeaseDurationMs: 500 } });
  const params = handOver(pair);
  assert.is(pair.p.scheduler.nextDeadlineMs(), 1500);
  assert.not.ok(pair.p.scheduler.hasWork());
  pair.p.nowMs = 1500;
  assert.ok(pair.p.scheduler.hasWork());
  pair.p.step();
  assert.is(pair.p.scheduler.state().numFreeBlocks, 100);
  assert.is(pair.p.scheduler.nextDeadlineMs(), null);
  const request = addToD(pair, params);
  pair.d.run();
  // The full blocks are still there; the partial one is not.
  assert.is(request.prefillStats!.num_decode_computed_tokens, 8);
  pair.assertEmpty();
});

test('a request that was aborted on P leaves nothing for D', () => {
  const pair = createPair();
  pair.p.add({
    requestId: 'a',
    promptTokenIds: prompt,
    kvTransferParams: remoteDecodeParams(),
    maxTokens: 9,
  });
  pair.p.step();
  assert.is(pair.p.scheduler.finishRequest('a', 'FINISHED_ABORTED')!.kvTransferParams, null);
  pair.assertEmpty();
});

test('a request that D drops before it had blocks frees what P holds for it', () => {
  const pair = createPair();
  addToD(pair, handOver(pair));
  pair.d.scheduler.finishRequest('a', 'FINISHED_ABORTED');
  assert.ok(pair.d.scheduler.hasWork(), 'the notification is still to be sent');
  pair.d.run();
  pair.p.run();
  assert.is(pair.p.scheduler.state().numHolds, 0);
  pair.assertEmpty();
});

test('a prompt that D can never take frees what P holds for it', () => {
  const pair = createPair({ d: { cache: { numBlocks: 10 } } });
  addToD(pair, handOver(pair));
  const [output] = pair.d.run();
  assert.is(output!.finished, 'FINISHED_IGNORED');
  pair.p.run();
  pair.assertEmpty();
});

test.run();
