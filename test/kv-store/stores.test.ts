// What every KV store must do, whatever lies under it.
import { createHash } from 'node:crypto';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { evictionPolicyNames } from '../../src/config.js';
import type { KVStore } from '../../src/kv-store/kv-store.js';
import { startRedis } from './redis-server.js';
import {
  blockOf,
  directoryKind,
  hashesOf,
  memoryKind,
  namespace,
  recordBytes,
  redisKind,
  type StoreKind,
} from './stores.js';

const redis = await startRedis();

const kinds: StoreKind[] = [
  memoryKind(),
  directoryKind('dedicated'),
  directoryKind('shared'),
  ...(redis ? [redisKind(redis)] : []),
];

const otherNamespaces = (name: string) => createHash('sha256').update(name).digest('hex');
/** Evictions go by time of day where several processes share a store. */
const pause = () => new Promise((resolve) => setTimeout(resolve, 3));

async function putOneByOne(store: KVStore, blocks: ReturnType<typeof blockOf>[]): Promise<void> {
  for (const block of blocks) {
    await store.put([block]);
    await pause();
  }
}

for (const kind of kinds) {
  const test = suite(kind.name);
  const withStore = async (
    options: Parameters<StoreKind['open']>[0],
    work: (store: KVStore) => Promise<void>,
  ) => {
    const store = await kind.open(options);
    try {
      await work(store);
    } finally {
      await store.close();
    }
  };

  test('gives back what was put, bit for bit, and nothing else', () =>
    withStore({}, async (store) => {
      const blocks = [blockOf('a', 0), blockOf('a', 1)];
      const absent = blockOf('a', 2);
      assert.is(await store.put(blocks), 2);
      assert.equal(await store.has(hashesOf([...blocks, absent])), [true, true, false]);
      const found = await store.get(hashesOf([blocks[1]!, absent, blocks[0]!]));
      assert.equal(
        found.map((data) => data && [...data]),
        [[...blocks[1]!.data], null, [...blocks[0]!.data]],
      );
      const { numHits, numMisses, bytesRead, bytesWritten } = store.stats();
      assert.equal(
        { numHits, numMisses, bytesRead, bytesWritten },
        {
          numHits: 2,
          numMisses: 1,
          bytesRead: 2000,
          bytesWritten: 2000,
        },
      );
    }));

  test('never gives a block to another model', () =>
    withStore({}, async (store) => {
      const block = blockOf('other model', 0);
      await store.put([block]);
      await withStore({ namespace: otherNamespaces('another model') }, async (other) => {
        assert.equal(await other.has([block.hash]), [false]);
        assert.equal(await other.get([block.hash]), [null]);
      });
    }));

  for (const [what, change] of Object.entries({
    'a flipped bit': (record: Buffer) => {
      record[500]! ^= 1;
      return record;
    },
    'a cut end': (record: Buffer) => record.subarray(0, 700),
    'an empty record': () => Buffer.alloc(0),
    'foreign bytes': () => Buffer.alloc(recordBytes, 'x'),
  })) {
    if (!kind.corrupt) continue;
    test(`takes ${what} for a miss, and removes the block`, () =>
      withStore({}, async (store) => {
        const block = blockOf(`corrupt by ${what}`, 0);
        await store.put([block]);
        await kind.corrupt!(block.hash, change);
        const removed: string[] = [];
        store.onRemoved((hash) => removed.push(hash));
        assert.equal(await store.get([block.hash]), [null]);
        assert.equal(removed, [block.hash]);
        assert.is(store.stats().numCorrupt, 1);
        assert.equal(await store.has([block.hash]), [false]);
        assert.is(await store.put([block]), 1);
        assert.equal([...(await store.get([block.hash]))[0]!], [...block.data]);
      }));
  }

  test('does not take the record of one block for another one', () =>
    withStore({}, async (store) => {
      if (!kind.corrupt) return;
      const [wanted, other] = [blockOf('swapped', 0), blockOf('swapped', 1)];
      await store.put([wanted, other]);
      let bytes = Buffer.alloc(0);
      await kind.corrupt(other.hash, (record) => {
        bytes = Buffer.from(record);
        return record;
      });
      await kind.corrupt(wanted.hash, () => bytes);
      assert.equal(await store.get([wanted.hash]), [null]);
    }));

  for (const policy of evictionPolicyNames) {
    test(`keeps its capacity by ${policy}`, () =>
      withStore(
        { capacityBytes: 4 * recordBytes, policy, namespace: otherNamespaces(`capacity ${policy}`) },
        async (store) => {
          const [a, b] = [[0, 1].map((i) => blockOf('a', i)), [0, 1].map((i) => blockOf('b', i))];
          await putOneByOne(store, [...a, ...b]);
          // `a` is the older one but was used since.
          await store.get(hashesOf(a), 'a');
          await pause();
          const c = blockOf('c', 0);
          await putOneByOne(store, [c]);
          const all = [...a, ...b, c];
          const held = await store.has(hashesOf(all));
          const gone = all.filter((_, i) => !held[i]).map(({ chain, index }) => `${chain}${index}`);
          const expected = { lru: 'b0', lfu: 'b0', fifo: 'a0', session: 'b1' }[policy];
          // Among equally used ones Redis goes by name.
          const isRedisLfu = kind.name === 'redis' && policy === 'lfu';
          assert.is(gone.length, 1);
          assert.ok(
            isRedisLfu ? !gone[0]!.startsWith('a') : gone[0] === expected,
            `${gone} instead of ${expected}`,
          );
          assert.is(store.stats().numEvicted, 1);
        },
      ));
  }

  test('has no room for a block that is larger than its capacity, and says so', () =>
    withStore({ capacityBytes: 500, namespace: otherNamespaces('tiny') }, async (store) => {
      assert.is(await store.put([blockOf('a', 0)]), 0);
      assert.equal(await store.has([blockOf('a', 0).hash]), [false]);
    }));

  test('forgets a block when its time is over', async () => {
    let nowMs = Date.now();
    const isRedis = kind.name === 'redis';
    const options = { ttlMs: isRedis ? 30 : 60_000, now: () => nowMs, namespace: otherNamespaces('ttl') };
    await withStore(options, async (store) => {
      const block = blockOf('old', 0);
      await store.put([block]);
      if (!isRedis) assert.equal(await store.has([block.hash]), [true]);
      nowMs += 61_000;
      if (isRedis) await new Promise((resolve) => setTimeout(resolve, 60));
      assert.equal(await store.has([block.hash]), [false]);
      assert.equal(await store.get([block.hash]), [null]);
      await store.put([block]);
      assert.equal([...(await store.get([block.hash]))[0]!], [...block.data]);
    });
  });

  test('closes twice without complaint', async () => {
    const store = await kind.open();
    await store.close();
    await store.close();
  });

  test.after(async () => {
    kind.close();
    if (kind === kinds.at(-1)) await redis?.close();
  });
  test.run();
}

const names = suite('namespaces');
names('are 64 hex digits', () => assert.match(namespace, /^[0-9a-f]{64}$/));
names.run();
