// The pool of blocks: who gets which, and what of a freed one is still found.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BlockPool } from '../../src/core/block-pool.js';
import type { BlockTableSink } from '../../src/core/block-table-sink.js';

function createPool(numBlocks = 6) {
  const events: string[] = [];
  const sink: BlockTableSink = {
    publish: (blockId, hash) => events.push(`publish ${blockId} ${hash}`),
    retract: (blockId) => events.push(`retract ${blockId}`),
  };
  return { pool: new BlockPool(numBlocks, sink), events };
}

const idsOf = (blocks: readonly { readonly blockId: number }[]) => blocks.map(({ blockId }) => blockId);

test('block 0 is never given out', () => {
  const { pool } = createPool();
  assert.is(pool.numFreeBlocks, 5);
  assert.equal(idsOf(pool.getNewBlocks(5)), [1, 2, 3, 4, 5]);
  assert.is(pool.usage, 1);
  assert.throws(() => pool.getNewBlocks(1), /Expected 1 free blocks but there were only 0/);
});

test('freed blocks without a hash are reused first, hashed ones last and in the order of their release', () => {
  const { pool } = createPool();
  const blocks = pool.getNewBlocks(4);
  pool.cacheBlock(blocks[0]!, 'a');
  pool.cacheBlock(blocks[1]!, 'b');
  pool.freeBlocks(blocks.toReversed());
  assert.equal(idsOf(pool.getNewBlocks(5)), [3, 4, 5, 2, 1]);
});

test('a block is found while it is free, and forgotten when it is taken', () => {
  const { pool, events } = createPool(3);
  const [block] = pool.getNewBlocks(1);
  pool.cacheBlock(block!, 'a');
  pool.freeBlocks([block!]);
  assert.is(pool.getCachedBlock('a'), block);
  pool.getNewBlocks(2);
  assert.is(pool.getCachedBlock('a'), null);
  assert.is(pool.numCachedBlocks, 0);
  assert.equal(events, ['publish 1 a', 'retract 1']);
});

test("a chain's successor is only a hint: what it does not hold is looked up, and not found when it is gone", () => {
  const { pool } = createPool(4);
  const [first, second, other] = pool.getNewBlocks(3);
  pool.cacheBlock(first!, 'a');
  pool.cacheBlock(second!, 'b');
  pool.cacheBlock(other!, 'c');
  first!.successor = second!;
  assert.is(pool.getCachedBlock('b', first!), second);
  assert.is(pool.getCachedBlock('c', first!), other);
  pool.freeBlocks([second!]);
  pool.getNewBlocks(1);
  assert.is(pool.getCachedBlock('b', first!), null);
});

test('a touched block leaves the free queue and comes back only when all its users have freed it', () => {
  const { pool } = createPool(3);
  const [block] = pool.getNewBlocks(1);
  pool.cacheBlock(block!, 'a');
  pool.freeBlocks([block!]);
  pool.touch([block!]);
  pool.touch([block!]);
  assert.is(pool.numFreeBlocks, 1);
  pool.freeBlocks([block!]);
  assert.is(pool.numFreeBlocks, 1);
  pool.freeBlocks([block!]);
  assert.is(pool.numFreeBlocks, 2);
  assert.throws(() => pool.freeBlocks([block!]), /in use but it was free/);
});

test('two blocks may hold the same tokens, and either is found when the other is gone', () => {
  const { pool } = createPool(3);
  const [first, second] = pool.getNewBlocks(2);
  pool.cacheBlock(first!, 'a');
  pool.cacheBlock(second!, 'a');
  assert.is(pool.getCachedBlock('a'), first);
  pool.freeBlocks([first!]);
  assert.equal(pool.getNewBlocks(1), [first]);
  assert.is(pool.getCachedBlock('a'), second);
  pool.freeBlocks([second!]);
  assert.equal(pool.getNewBlocks(1), [second]);
  assert.is(pool.getCachedBlock('a'), null);
  pool.checkInvariants([0, 1, 1]);
});

test('a reset forgets everything, or nothing while a block is in use', () => {
  const { pool } = createPool(4);
  const [used, free] = pool.getNewBlocks(2);
  pool.cacheBlock(used!, 'a');
  pool.cacheBlock(free!, 'b');
  pool.freeBlocks([free!]);
  assert.is(pool.resetPrefixCache({ onlyFree: false }), false);
  assert.is(pool.numCachedBlocks, 2);
  assert.is(pool.resetPrefixCache({ onlyFree: true }), true);
  assert.is(pool.getCachedBlock('b'), null);
  assert.is(pool.getCachedBlock('a'), used);
  pool.freeBlocks([used!]);
  assert.is(pool.resetPrefixCache({ onlyFree: false }), true);
  assert.is(pool.numCachedBlocks, 0);
});

test('a wrong reference count is noticed', () => {
  const { pool } = createPool(3);
  pool.getNewBlocks(1);
  pool.checkInvariants([0, 1, 0]);
  assert.throws(() => pool.checkInvariants([0, 0, 0]), /Expected 0 users of block 1 but its count is 1/);
});

test.run();
