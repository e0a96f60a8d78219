// What names a block: vLLM's hashes, extended as tokens come, with salt and with partial blocks.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { assertTokenIds, BlockHasher } from '../../src/core/block-hash.js';
import { VllmPdError } from '../../src/errors.js';

const hasher = new BlockHasher(16, '0');

function range(begin: number, end: number): number[] {
  return Array.from({ length: end - begin }, (_, i) => begin + i);
}

function hashed(tokenIds: number[], cacheSalt: string | null = null) {
  const request = { tokenIds, cacheSalt, blockHashes: [] as string[] };
  hasher.extend(request);
  return request;
}

const block0 = 'd830de3d42c00f25a2949b5d12d98642664a44872c1614c5b0147556276afc9c';
const block1 = 'fedd9e4abebebbe6f6cf96b682f08d316063fe2f22a5c552192dd62904fcccac';
const salted0 = 'ba548bc465821c2e9b6a60ed95bf1a7bf56d08e438e8bcd7758f29086c085ab8';
/** Every length of a CBOR integer head. */
const allWidths = [0, 1000, 100_000, 23, 24, 255, 256, 65_535, 65_536, 2, 3, 4, 5, 6, 7, 8];

const vectors: readonly (readonly [string, () => string | undefined, string])[] = [
  ['the seed', () => hasher.noneHash, '4e1195df020de59e0d65a33a4279f1183e7ae4e5d980e309f8b55adff2e61c3e'],
  ['block 0', () => hashed(range(0, 32)).blockHashes[0], block0],
  ['block 1', () => hashed(range(0, 32)).blockHashes[1], block1],
  ['a salted block 0', () => hashed(range(0, 32), 'salt').blockHashes[0], salted0],
  [
    'token ids of every encoded length',
    () => hashed(allWidths).blockHashes[0],
    '0f1d7175bed8cae21b54d4b15aa1234df02b6e50c24ca0f488ceddc1b647a3da',
  ],
];
for (const [name, hash, expected] of vectors) {
  test(`the hash of ${name} is vLLM's`, () => {
    assert.is(hash(), expected);
  });
}

test('hashes are extended as tokens are appended, and only by full blocks', () => {
  const request = hashed(range(0, 31));
  assert.equal(request.blockHashes, [block0]);
  request.tokenIds.push(31);
  hasher.extend(request);
  assert.equal(request.blockHashes, [block0, block1]);
});

test('a partial block is hashed like a full one with fewer tokens', () => {
  const request = hashed(range(0, 24));
  const partial = hasher.hashPartial(request, 1, 8);
  assert.equal(hasher.prefixHashes(request, 24), [block0, partial]);
  assert.is.not(partial, hasher.hashPartial(request, 1, 7));
  assert.is(hasher.hashPartial(hashed(range(0, 32)), 1, 16), block1);
});

test('the salt changes every block, though only block 0 names it', () => {
  const [plain, salted] = [hashed(range(0, 32)), hashed(range(0, 32), 'salt')];
  assert.is.not(plain.blockHashes[1], salted.blockHashes[1]);
});

test('a salt longer than the buffer is hashed too', () => {
  assert.is.not(
    hashed(range(0, 16), 'x'.repeat(5000)).blockHashes[0],
    hashed(range(0, 16), `${'x'.repeat(4999)}y`).blockHashes[0],
  );
});

test('another seed gives other hashes', () => {
  assert.is.not(new BlockHasher(16, '1').noneHash, hasher.noneHash);
});

for (const tokenId of [-1, 1.5, Number.NaN, 2 ** 32, Number.POSITIVE_INFINITY]) {
  test(`token id ${tokenId} is refused`, () => {
    assert.throws(
      () => assertTokenIds([0, tokenId]),
      (error: unknown) =>
        error instanceof VllmPdError &&
        error.code === 'INVALID_ARGUMENT' &&
        error.message.includes(`received ${tokenId} at position 1`),
    );
  });
}

test('the largest uint32 is a token id', () => {
  assertTokenIds([0, 2 ** 32 - 1]);
});

test.run();
