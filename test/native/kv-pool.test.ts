// A node's own pool: rows, copies, views, and what it refuses.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import type { KvPoolLayout } from '../../src/native/kv-pool-layout.js';
import { loadNative } from '../../src/native.js';

const layout: KvPoolLayout = {
  numBlocks: 8,
  numLayers: 2,
  numKvHeads: 3,
  blockSize: 5,
  headDim: 6,
  dtype: 'float32',
};
const [hashA, hashB] = ['ab'.repeat(32), '0f'.repeat(32)] as const;

function withPool(body: (pool: KvPool) => void): void {
  const pool = loadNative().createPool(layout);
  try {
    body(pool);
  } finally {
    pool.close();
  }
}

function refused(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    assert.instance(error, VllmPdError);
    assert.is((error as VllmPdError).code, 'INVALID_ARGUMENT');
    return (error as VllmPdError).message;
  }
  throw new Error('nothing was thrown');
}

test('a row names what was published last, and its generation changes with every publish and retract', () =>
  withPool((pool) => {
    const generations = [pool.row(3).generation];
    assert.is(pool.row(3).hash, null);
    const step = (change: () => void, hash: string | null) => {
      change();
      const row = pool.row(3);
      assert.is(row.hash, hash);
      generations.push(row.generation);
    };
    step(() => pool.publish(3, hashA), hashA);
    step(() => pool.publish(3, hashB), hashB);
    step(() => pool.retract(3), null);
    step(() => pool.retract(3), null);
    step(() => pool.publish(3, hashA.toUpperCase()), hashA);
    assert.equal([...new Set(generations)].length, generations.length);
    assert.is(pool.row(2).hash, null, 'its neighbour is another row');
  }));

test('copyOut gives blocks whose hash is as asked, and zeros for others; copyIn puts them back in order', () =>
  withPool((pool) => {
    assert.is(pool.blockBytes, 2 * 2 * 3 * 5 * 6 * 4);
    pool.block(1).fill(11);
    pool.block(5).fill(55);
    pool.publish(1, hashA);
    pool.publish(5, hashB);
    const { data, valid } = pool.copyOut([5, 1, 1, 0], [hashB, hashA, hashB, hashA]);
    assert.equal([...valid], [1, 1, 0, 0]);
    const expected = Buffer.concat([55, 11, 0, 0].map((byte) => Buffer.alloc(pool.blockBytes, byte)));
    assert.ok(expected.equals(data));
    pool.copyIn([7, 6, 2, 3], data);
    assert.ok(pool.block(7).every((byte) => byte === 55));
    assert.ok(pool.block(6).every((byte) => byte === 11));
    assert.is(pool.row(7).hash, null, 'copying in does not publish');
  }));

test('a bfloat16 pool has blocks of half the bytes', () => {
  const half = loadNative().createPool({ ...layout, dtype: 'bfloat16' });
  assert.is(half.blockBytes, 2 * 2 * 3 * 5 * 6 * 2);
  assert.is(half.block(7).length, half.blockBytes);
  half.close();
});

test('views of one block see each other and outlive the pool', () => {
  const pool = loadNative().createPool(layout);
  const first = pool.block(4);
  const second = pool.block(4);
  first[17] = 42;
  assert.is(second[17], 42);
  pool.close();
  pool.close();
  assert.is(first[17], 42);
  first.fill(1);
  assert.is(second[0], 1);
});

test('a pool beyond 4 GiB is addressed to its end', () => {
  const large: KvPoolLayout = {
    ...layout,
    numBlocks: 4200,
    numLayers: 16,
    numKvHeads: 8,
    blockSize: 16,
    headDim: 64,
  };
  let pool: KvPool;
  try {
    pool = loadNative().createPool(large);
  } catch (error) {
    assert.match((error as Error).message, /the memory available here/);
    console.log('skipped: this machine has less than 5 GiB of memory free');
    return;
  }
  assert.ok(pool.blockBytes * 4199 > 2 ** 32);
  pool.block(4199).fill(9);
  pool.publish(4199, hashA);
  pool.block(0).fill(3);
  const { data, valid } = pool.copyOut([4199], [hashA]);
  assert.is(valid[0], 1);
  assert.ok(data.every((byte) => byte === 9));
  pool.close();
});

test('layouts that cannot be are refused with the number at fault', () => {
  const create = (changes: object) => refused(() => loadNative().createPool({ ...layout, ...changes }));
  assert.match(create({ numBlocks: 0 }), /at least 1 for numBlocks but received 0/);
  assert.match(create({ blockSize: -16 }), /blockSize but received -16/);
  assert.match(create({ headDim: 2.5 }), /headDim but received 2.5/);
  assert.match(create({ numLayers: '2' }), /numLayers but received "2"/);
  assert.match(create({ numKvHeads: undefined }), /numKvHeads but received undefined/);
  assert.match(create({ dtype: 'int4' }), /one of .* for dtype but received "int4"/);
  assert.match(create({ headDim: 2 ** 30 }), /blocks of at most/);
  assert.match(create({ numBlocks: 2 ** 31 - 1 }), /the memory available here/);
});

test('wrong ids, hashes and lengths are refused, as is everything on a closed pool', () => {
  const pool = loadNative().createPool(layout);
  assert.match(
    refused(() => pool.publish(8, hashA)),
    /from 0 to 7 for blockId but received 8/,
  );
  assert.match(
    refused(() => pool.retract(-1)),
    /received -1/,
  );
  assert.match(
    refused(() => pool.row(Number.NaN)),
    /received NaN/,
  );
  assert.match(
    refused(() => pool.block(0.5)),
    /received 0.5/,
  );
  for (const hash of ['', 'ab', 'g'.repeat(64), `${hashA}00`, 5 as unknown as string]) {
    assert.match(
      refused(() => pool.publish(0, hash)),
      /64 hex digits/,
    );
  }
  assert.match(
    refused(() => pool.copyOut([0, 1], [hashA])),
    /2 elements in hashes but received 1/,
  );
  assert.match(
    refused(() => pool.copyOut([0, 9], [hashA, hashA])),
    /blockIds\[1\] but received 9/,
  );
  assert.match(
    refused(() => pool.copyIn([0], new Uint8Array(7))),
    /bytes in data but received 7/,
  );
  assert.match(
    refused(() => pool.copyIn([0], 'x' as unknown as Uint8Array)),
    /Uint8Array for data/,
  );
  pool.close();
  for (const use of [
    () => pool.publish(0, hashA),
    () => pool.retract(0),
    () => pool.row(0),
    () => pool.block(0),
    () => pool.copyOut([0], [hashA]),
    () => pool.copyIn([0], new Uint8Array(pool.blockBytes)),
  ]) {
    assert.match(refused(use), /pool is closed/);
  }
});

test.run();
