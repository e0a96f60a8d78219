// Block hashes computed natively are the hasher's own, bit for bit, with and without the chip's SHA instructions.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BlockHasher, type HashBlocks } from '../../src/core/block-hash.js';
import { VllmPdError } from '../../src/errors.js';
import { loadNative } from '../../src/native.js';

const native = loadNative();
/** Every length of a CBOR integer head, at its ends. */
const edges = [0, 1, 23, 24, 255, 256, 65_535, 65_536, 2 ** 32 - 1];

/** Token ids that look random, small and large ones in any order. */
function tokenIds(count: number, seed: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    const mixed = Math.imul(i + seed * 7919 + 1, 2_654_435_761) >>> 0;
    return mixed % 5 === 0 ? edges[mixed % edges.length]! : mixed >>> (mixed % 32);
  });
}

function hashed(blockSize: number, ids: number[], cacheSalt: string | null, hashBlocks: HashBlocks | null) {
  const request = { tokenIds: ids, cacheSalt, blockHashes: [] as string[] };
  new BlockHasher(blockSize, '0', hashBlocks).extend(request);
  return request.blockHashes;
}

for (const portable of [false, true]) {
  const hashBlocks: HashBlocks = (chains, numBlocks, blockSize) =>
    native.hashBlocks(chains, numBlocks, blockSize, { portable });

  // From messages of one chunk to those of many; 23, 24 and 256 are where heads of arrays grow.
  for (const blockSize of [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 23, 24, 32, 64, 128, 255, 256, 1000]) {
    test(`blocks of ${blockSize} have the same names ${portable ? 'without' : 'with'} SHA instructions`, () => {
      for (const [seed, cacheSalt] of [null, 'salt', ''].entries()) {
        const ids = tokenIds(7 * blockSize + Math.min(3, blockSize - 1), seed);
        assert.equal(
          hashed(blockSize, ids, cacheSalt, hashBlocks),
          hashed(blockSize, ids, cacheSalt, null),
          `salt ${cacheSalt}`,
        );
      }
    });
  }
}

test('hashes are extended behind those that are there', () => {
  const ids = tokenIds(16 * 40, 3);
  const whole = hashed(16, ids, 'salt', null);
  const hasher = new BlockHasher(16, '0', native.hashBlocks);
  const request = { tokenIds: ids.slice(0, 16 * 9 + 5), cacheSalt: 'salt', blockHashes: [] as string[] };
  hasher.extend(request);
  assert.is(request.blockHashes.length, 9);
  request.tokenIds.push(...ids.slice(16 * 9 + 5));
  hasher.extend(request);
  assert.equal(request.blockHashes, whole);
});

test('the hasher asks for many blocks at once, and for a single one not at all', () => {
  const calls: number[] = [];
  const hashBlocks: HashBlocks = (...blocks) => {
    calls.push(blocks[1]);
    return native.hashBlocks(...blocks);
  };
  hashed(16, tokenIds(16 * 2, 1), null, hashBlocks);
  assert.equal(calls, []);
  hashed(16, tokenIds(16 * 100, 1), null, hashBlocks);
  hashed(16, tokenIds(16 * 100, 1), 'salt', hashBlocks);
  assert.equal(calls, [100, 99]);
});

test('the blocks that many requests complete in one step have the names that each would give them', () => {
  const calls: number[] = [];
  const hashBlocks: HashBlocks = (...blocks) => {
    calls.push(blocks[0].length);
    return native.hashBlocks(...blocks);
  };
  // With and without salt, behind any number of blocks; the last three have completed none or two.
  const requests = Array.from({ length: 24 }, (_, i) => {
    const ids = tokenIds(4 * (1 + (i % 6)), i);
    const cacheSalt = i % 4 === 0 ? 'salt' : null;
    const blockHashes = hashed(4, ids, cacheSalt, null);
    blockHashes.length -= i < 21 ? 1 : i === 21 ? 0 : Math.min(2, blockHashes.length);
    return { tokenIds: ids, cacheSalt, blockHashes };
  });
  new BlockHasher(4, '0', hashBlocks).extendAll(requests);
  for (const { tokenIds, cacheSalt, blockHashes } of requests) {
    assert.equal(blockHashes, hashed(4, tokenIds, cacheSalt, null));
  }
  // Salted first blocks have extra keys, so each is hashed by itself.
  assert.equal(calls, [19]);
});

test('arguments that cannot be are refused', () => {
  const parent = '0'.repeat(64);
  const refused = (call: () => unknown, sentence: RegExp) => {
    try {
      call();
    } catch (error) {
      assert.ok(error instanceof VllmPdError && error.code === 'INVALID_ARGUMENT');
      assert.match(error.message, sentence);
      return;
    }
    assert.unreachable();
  };
  const hashBlocks = (chain: object, numBlocks: number, blockSize: number) =>
    native.hashBlocks([{ parent, tokenIds: [1, 2, 3], begin: 0, ...chain }], numBlocks, blockSize);
  refused(() => hashBlocks({ parent: 'xyz' }, 1, 1), /64 hex digits/);
  refused(() => hashBlocks({ begin: 1 }, 2, 2), /at least 5 token ids but received 3/);
  refused(() => hashBlocks({}, 1, 0), /blockSize but received 0/);
  refused(() => hashBlocks({ begin: -1 }, 1, 1), /begin but received -1/);
  assert.equal(hashBlocks({ tokenIds: [] }, 0, 16), []);
  assert.equal(native.hashBlocks([], 1, 16), []);
});

test.run();
