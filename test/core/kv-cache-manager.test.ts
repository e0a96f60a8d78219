// A request's blocks: what is found, what is allocated, what is held when it ends.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BlockHasher } from '../../src/core/block-hash.js';
import { KVCacheManager } from '../../src/core/kv-cache-manager.js';
import type { Request } from '../../src/request.js';
import { createRequest, tokens } from './test-node.js';

const hasher = new BlockHasher(4, '0');

function createManager(numBlocks = 11) {
  const rows = new Map<number, string>();
  const kvCache = new KVCacheManager(
    { blockSize: 4, numBlocks, enablePrefixCaching: true, hashSeed: '0' },
    { publish: (blockId, hash) => rows.set(blockId, hash), retract: (blockId) => rows.delete(blockId) },
  );
  return { kvCache, rows };
}

function prompt(label: string, length: number): Request {
  const request = createRequest({ promptTokenIds: tokens(label, length) });
  hasher.extend(request);
  return request;
}

function admit(kvCache: KVCacheManager, request: Request, numNewTokens: number, numReservedBlocks = 0) {
  const hit = kvCache.getComputedBlocks(request);
  const blockIds = kvCache.admit(request, numNewTokens, {
    hit,
    numExternalTokens: 0,
    numReservedBlocks,
  });
  if (blockIds) request.numComputedTokens = hit.length * 4 + numNewTokens;
  return blockIds;
}

test('a block is found only after it was said to be complete', () => {
  const { kvCache, rows } = createManager();
  const first = prompt('a', 10);
  admit(kvCache, first, 10);
  assert.is(kvCache.getComputedBlocks(prompt('a', 10)).length, 0);
  assert.is(rows.size, 0);
  kvCache.cacheBlocks(first, 10);
  assert.equal([...rows.values()], first.blockHashes);
  assert.is(kvCache.getComputedBlocks(prompt('a', 10)).length, 2);
});

test('a hit never covers the last token', () => {
  const { kvCache } = createManager();
  const first = prompt('a', 8);
  admit(kvCache, first, 8);
  kvCache.cacheBlocks(first, 8);
  assert.is(kvCache.getComputedBlocks(prompt('a', 8)).length, 1);
  assert.is(kvCache.getComputedBlocks(prompt('a', 9)).length, 2);
  assert.is(kvCache.getComputedBlocks(prompt('a', 1)).length, 0);
});

test('what does not fit has no effect', () => {
  const { kvCache } = createManager(6);
  const first = prompt('a', 8);
  admit(kvCache, first, 8);
  kvCache.cacheBlocks(first, 8);
  kvCache.free(first);
  const second = prompt('a', 24);
  assert.is(admit(kvCache, second, 16), null);
  assert.is(kvCache.numFreeBlocks, 5);
  assert.is(kvCache.numCachedBlocks, 2);
  assert.equal(kvCache.getBlockIds(second), []);
  kvCache.checkInvariants();
});

test('the hit is taken out of the free queue before new blocks are, and counts against what is free', () => {
  const { kvCache } = createManager(6);
  const first = prompt('a', 12);
  admit(kvCache, first, 12);
  kvCache.cacheBlocks(first, 12);
  kvCache.free(first);
  const second = prompt('a', 20);
  const blockIds = admit(kvCache, second, 8)!;
  assert.equal(blockIds.slice(0, 3), [1, 2, 3]);
  assert.is(new Set(blockIds).size, 5);
  assert.is(kvCache.numFreeBlocks, 0);
  kvCache.checkInvariants();
});

test('an admission needs room for the whole sequence beside what is reserved', () => {
  const { kvCache } = createManager(11);
  assert.is(admit(kvCache, prompt('a', 20), 4, 6), null);
  assert.ok(admit(kvCache, prompt('a', 20), 4, 5));
  assert.is(kvCache.numFreeBlocks, 9);
});

test('the block table is one live array', () => {
  const { kvCache } = createManager();
  const request = prompt('a', 12);
  const blockIds = admit(kvCache, request, 4);
  assert.equal(blockIds, [1]);
  kvCache.allocateSlots(request, 8);
  assert.equal(blockIds, [1, 2, 3]);
  assert.is(kvCache.getBlockIds(request), blockIds);
  kvCache.free(request);
  assert.equal(blockIds, [1, 2, 3], 'a step under way may still read it');
});

test('a freed chain is evicted from its end', () => {
  const { kvCache } = createManager(5);
  const first = prompt('a', 16);
  admit(kvCache, first, 16);
  kvCache.cacheBlocks(first, 16);
  kvCache.free(first);
  admit(kvCache, prompt('b', 4), 4);
  assert.is(kvCache.getComputedBlocks(prompt('a', 17)).length, 3);
});

test('a hold keeps what has KV, shows the partial last block while it lasts, and frees the rest', () => {
  const { kvCache, rows } = createManager();
  const request = prompt('a', 16);
  const [first, second, third] = admit(kvCache, request, 16)!;
  kvCache.cacheBlocks(request, 10);
  const hashes = hasher.prefixHashes(request, 10);
  kvCache.holdRequest(request, hashes);
  assert.equal(
    [first, second, third].map((blockId) => rows.get(blockId!)),
    hashes,
  );
  assert.is(kvCache.numFreeBlocks, 7);
  kvCache.checkInvariants();
  kvCache.endHold(request.requestId);
  assert.not.ok(rows.has(third!));
  assert.is(kvCache.numFreeBlocks, 10);
  assert.is(kvCache.numCachedBlocks, 2);
  assert.throws(() => kvCache.endHold(request.requestId), /Expected a hold .* to end but there is none/);
});

test('a pin keeps cached blocks from being evicted', () => {
  const { kvCache } = createManager(4);
  const first = prompt('a', 9);
  admit(kvCache, first, 9);
  kvCache.cacheBlocks(first, 9);
  kvCache.free(first);
  kvCache.pin('lease', kvCache.getComputedBlocks(prompt('a', 9)));
  assert.is(admit(kvCache, prompt('b', 5), 5), null);
  kvCache.endHold('lease');
  assert.ok(admit(kvCache, prompt('b', 5), 5));
  kvCache.checkInvariants();
});

test.run();
