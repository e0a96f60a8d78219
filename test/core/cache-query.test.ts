// Cache queries and leases, stepped by hand.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type PairOptions, PdPair } from './pd-pair.js';
import { TestNode, tokens } from './test-node.js';

const prompt = tokens('prompt', 200);

function createPair(options: PairOptions = {}): PdPair {
  return new PdPair('bi', options);
}

test('a cache query is answered in the pass that sees it, with no token scheduled, though the pool is full', () => {
  const pair = createPair({ d: { cache: { numBlocks: 15 } } });
  const { d } = pair;
  d.add({ requestId: 'fills', promptTokenIds: prompt, maxTokens: 20 });
  d.step();
  d.add({ requestId: 'waits', promptTokenIds: tokens('other', 100) });
  d.add({ requestId: 'q', promptTokenIds: [...prompt, 1, 2, 3], cacheQuery: { lease: false } });
  const { output, outputs } = d.step();
  assert.equal(
    output.scheduled.map(({ request }) => request.requestId),
    ['fills'],
  );
  const [answer] = output.cacheQueryAnswers;
  assert.is(answer!.num_tokens, 192);
  assert.is(answer!.num_blocks, 12);
  assert.is(answer!.num_prompt_tokens, 203);
  assert.is(answer!.block_hashes.length, 12);
  assert.equal(
    answer!.block_ids.map((blockId) => d.rows.get(blockId)),
    answer!.block_hashes,
  );
  assert.is(answer!.engine_id, 'D');
  assert.is(answer!.tier, 'local');
  assert.is(answer!.lease, null);
  const repeated = outputs.find(({ requestId }) => requestId === 'q')!;
  assert.is(repeated.cacheQueryAnswer, answer);
  assert.is(repeated.finished, 'FINISHED_STOPPED');
  d.run();
  pair.assertEmpty();
});

test('a cache query is all that an idle node steps for', () => {
  const pair = createPair();
  pair.d.add({ requestId: 'q', promptTokenIds: prompt, cacheQuery: { lease: true } });
  assert.ok(pair.d.scheduler.hasWork());
  const { output } = pair.d.step();
  assert.is(output.totalNumScheduledTokens, 0);
  assert.is(output.cacheQueryAnswers[0]!.num_tokens, 0);
  assert.is(output.cacheQueryAnswers[0]!.lease, null);
  assert.is(output.cacheQueryAnswers[0]!.kv_transfer_params, null);
  assert.not.ok(pair.d.scheduler.hasWork());
  pair.assertEmpty();
});

test('a cache query without a lease changes neither eviction order, nor free blocks, nor statistics', () => {
  const survivors = (asks: boolean): number => {
    const { d } = createPair({ d: { cache: { numBlocks: 11 } } });
    d.complete({ promptTokenIds: tokens('old', 64), maxTokens: 1 });
    d.complete({ promptTokenIds: tokens('young', 64), maxTokens: 1 });
    const before = [d.scheduler.state(), d.scheduler.prefixCacheStats];
    if (asks) {
      d.complete({ promptTokenIds: tokens('old', 65), cacheQuery: { lease: false } });
      assert.equal([d.scheduler.state(), d.scheduler.prefixCacheStats], before);
    }
    d.complete({ promptTokenIds: tokens('new', 80), maxTokens: 1 });
    const { last } = d.complete({ promptTokenIds: tokens('old', 65), cacheQuery: { lease: false } });
    d.assertEmpty();
    return last.cacheQueryAnswer!.num_tokens;
  };
  assert.is(survivors(true), survivors(false));
  assert.is(survivors(true), 16);
});

test('a lease keeps the blocks found until it is released, once', () => {
  const pair = createPair({ d: { cache: { numBlocks: 15 } } });
  const { d } = pair;
  d.complete({ promptTokenIds: prompt, maxTokens: 1 });
  const params = pair.query([...prompt, 1]);
  assert.is(params.remote_num_tokens, 192);
  assert.is(d.scheduler.state().numHolds, 1);
  assert.is(d.scheduler.state().numFreeBlocks, 14 - 12);
  // Takes both blocks that are left, and neither of those under the lease.
  d.complete({ promptTokenIds: tokens('other', 30), maxTokens: 1 });
  assert.is(d.scheduler.state().numHolds, 1);
  assert.is(pair.query([...prompt, 1]).remote_num_tokens, 192);
  assert.ok(d.scheduler.releaseLease(params.remote_request_id!));
  assert.not.ok(d.scheduler.releaseLease(params.remote_request_id!));
  assert.is(d.scheduler.state().numFreeBlocks, 14 - 12, 'the second lease still stands');
  d.nowMs += 30_000;
  d.run();
  assert.is(d.scheduler.state().numFreeBlocks, 14);
  pair.assertEmpty();
});

test('two leases on the same blocks end one by one', () => {
  const pair = createPair();
  pair.d.complete({ promptTokenIds: prompt, maxTokens: 1 });
  const [first, second] = [pair.query([...prompt, 1]), pair.query([...prompt, 2])];
  pair.d.scheduler.releaseLease(first!.remote_request_id!);
  pair.d.check();
  assert.is(pair.d.scheduler.state().numFreeBlocks, 100 - 12);
  pair.d.nowMs += 30_000;
  pair.d.run();
  assert.is(pair.d.scheduler.state().numFreeBlocks, 100);
  assert.not.ok(pair.d.scheduler.releaseLease(second!.remote_request_id!));
  pair.assertEmpty();
});

test('a lease is never granted by a node without a connector', () => {
  const node = new TestNode();
  node.complete({ promptTokenIds: prompt, maxTokens: 1 });
  const { last } = node.complete({ promptTokenIds: prompt, cacheQuery: { lease: true } });
  assert.is(last.cacheQueryAnswer!.num_tokens, 192);
  assert.is(last.cacheQueryAnswer!.lease, null);
  node.assertEmpty();
});

test("the answer covers no more than a hit would: not the prompt's last token", () => {
  const pair = createPair();
  const whole = tokens('whole', 64);
  pair.d.complete({ promptTokenIds: whole, maxTokens: 1 });
  const { last } = pair.d.complete({ promptTokenIds: whole, cacheQuery: { lease: false } });
  assert.is(last.cacheQueryAnswer!.num_tokens, 48);
  pair.assertEmpty();
});

test.run();
