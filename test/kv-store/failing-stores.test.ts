// A store that fails, hangs, fills up or loses its server: always a miss, never an error, never a wait without end.
import { closeSync, openSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import { DirectoryStore } from '../../src/kv-store/directory-store.js';
import { GuardedStore } from '../../src/kv-store/guarded-store.js';
import { type KVStore, StoreCounters } from '../../src/kv-store/kv-store.js';
import { MemoryStore } from '../../src/kv-store/memory-store.js';
import { NodeStores } from '../../src/kv-store/node-stores.js';
import { RedisStore } from '../../src/kv-store/redis-store.js';
import { WriteBehind } from '../../src/kv-store/write-behind.js';
import { startRedis } from './redis-server.js';
import { blockBytes, blockOf, directoryKind, hashesOf, namespace, redisKind, until } from './stores.js';

const limits = { capacityBytes: null, ttlMs: null, policy: 'lru' } as const;

/** A store whose every call does this. */
function storeThat(call: () => Promise<never>): KVStore {
  const counters = new StoreCounters();
  return {
    tier: 'shared',
    medium: 'directory',
    has: call,
    get: call,
    put: call,
    onRemoved() {},
    stats: () => counters.stats(0, 0),
    close: async () => {},
  };
}

const broken = () => storeThat(() => Promise.reject(new Error('the disk is on fire')));
const hung = () => storeThat(() => new Promise<never>(() => {}));

for (const [name, make] of Object.entries({ fails: broken, 'never answers': hung })) {
  test(`a store that ${name} holds nothing and is left alone for a while`, async () => {
    const store = new GuardedStore(make(), {
      lookupTimeoutMs: 20,
      transferTimeoutMs: 20,
      firstPauseMs: 40,
    });
    assert.equal(await store.has(['a', 'b']), [false, false]);
    assert.not.ok(store.isOpen);
    // Not asked at all now.
    assert.equal(await store.get(['a']), [null]);
    assert.is(store.stats().numFailures, 1);
    await until(() => store.isOpen);
    assert.is(await store.put([blockOf('a', 0)]), 0);
    assert.is(store.stats().numFailures, 2);
  });
}

test('a full queue drops blocks before they are copied, and says how many', async () => {
  const writes = new WriteBehind(hung(), () => {}, 3 * blockBytes);
  const blocks = Array.from({ length: 5 }, (_, i) => blockOf('a', i));
  for (const block of blocks) if (writes.accepts(block.hash, blockBytes)) writes.add(block);
  const { numQueued, queuedBytes, numDropped } = writes.stats();
  assert.equal({ numQueued, queuedBytes, numDropped }, { numQueued: 3, queuedBytes: 3000, numDropped: 2 });
});

test('blocks that a failing store does not take are dropped, and those that it held are not sent again', async () => {
  const failing = new WriteBehind(broken(), () => assert.unreachable());
  failing.add(blockOf('a', 0));
  await failing.flush();
  assert.is(failing.stats().numDropped, 1);
  const store = new MemoryStore({ ...limits, namespace, blockBytes });
  const held: string[] = [];
  const writes = new WriteBehind(store, (hashes) => held.push(...hashes));
  for (let round = 0; round < 2; round += 1) {
    writes.add(blockOf('a', 0));
    await writes.flush();
  }
  assert.is(writes.stats().numWritten, 1);
  assert.is(store.stats().bytesWritten, blockBytes);
  assert.is(held.length, 2);
});

test('a node reads what one tier lost from the other one, and marks what it found', async () => {
  const shared = directoryKind('shared');
  try {
    const memory = new MemoryStore({ ...limits, capacityBytes: 2 * 1128, namespace, blockBytes });
    const stores = new NodeStores([memory, await shared.open()]);
    const blocks = [0, 1, 2].map((i) => blockOf('a', i));
    for (const block of blocks) stores.save(block.hash, block, blockBytes, () => block.data);
    await stores.flush();
    assert.equal(
      blocks.map(({ hash }) => stores.tiersOf(hash)),
      [['shared'], ['dedicated', 'shared'], ['dedicated', 'shared']],
    );
    assert.equal(await stores.read('dedicated', [blocks[0]!.hash], 'a'), [null]);
    assert.equal([...(await stores.read('shared', [blocks[0]!.hash], 'a'))[0]!], [...blocks[0]!.data]);
    let numCopies = 0;
    stores.save(blocks[1]!.hash, blocks[1]!, blockBytes, () => {
      numCopies += 1;
      return null;
    });
    assert.is(numCopies, 0, 'what every tier holds is not copied');
    await stores.close();
  } finally {
    shared.close();
  }
});

test('a directory that is deleted under a store is an empty store, and is made again', async () => {
  const kind = directoryKind('shared');
  const store = await kind.open();
  const block = blockOf('a', 0);
  await store.put([block]);
  kind.close();
  assert.equal(await store.has([block.hash]), [false]);
  assert.equal(await store.get([block.hash]), [null]);
  // The first write finds the folder gone and makes it; the next one is stored.
  await store.put([block]).catch(() => {});
  assert.is(await store.put([block]), 1);
  assert.ok((await store.get([block.hash]))[0]);
  await store.close();
  kind.close();
});

test('a directory that cannot be written is refused at once', async () => {
  // Below a file there are no directories.
  const directory = path.join(import.meta.filename, 'store');
  const options = { ...limits, tier: 'shared', directory, namespace, blockBytes } as const;
  const error = await DirectoryStore.open(options).then(
    () => null,
    (cause: unknown) => cause,
  );
  assert.ok(error instanceof VllmPdError && error.code === 'INVALID_ARGUMENT', String(error));
});

test('what a writer left half written when it died is never seen, and removed when it is old', async () => {
  const kind = directoryKind('shared');
  const store = await kind.open();
  const block = blockOf('a', 0);
  await store.put([block]);
  const folder = path.join(path.dirname(path.dirname(kind.fileOf!(block.hash))), 'tmp');
  const [fresh, old] = [path.join(folder, 'fresh'), path.join(folder, 'old')];
  writeFileSync(fresh, 'half a block');
  writeFileSync(old, 'half a block');
  utimesSync(old, 0, 0);
  const reader = await kind.open();
  assert.is(reader.stats().numBlocks, 1);
  assert.equal(readdirSync(folder), ['fresh']);
  await Promise.all([store.close(), reader.close()]);
  kind.close();
});

test('a block is put in its place as a whole: who has the old file open reads on in that', async () => {
  const kind = directoryKind('shared');
  const [store, other] = await Promise.all([kind.open(), kind.open()]);
  const block = blockOf('a', 0);
  await other.put([block]);
  const file = kind.fileOf!(block.hash);
  writeFileSync(file, 'what another writer had begun');
  const open = openSync(file, 'r');
  await store.put([block]);
  assert.is(readFileSync(open, 'utf8'), 'what another writer had begun');
  closeSync(open);
  assert.is(Buffer.compare((await store.get([block.hash]))[0]!, block.data), 0);
  await Promise.all([store.close(), other.close()]);
  kind.close();
});

test('several writers at once leave whole blocks only, and find each other’s', async () => {
  const kind = directoryKind('shared');
  const stores = await Promise.all([kind.open(), kind.open(), kind.open()]);
  const blocks = Array.from({ length: 40 }, (_, i) => blockOf('a', i));
  await Promise.all(stores.map((store) => store.put(blocks)));
  for (const store of stores) {
    const found = await store.get(hashesOf(blocks));
    assert.ok(found.every((data, i) => data && Buffer.compare(data, blocks[i]!.data) === 0));
  }
  assert.is(
    stores.reduce((sum, store) => sum + store.stats().numCorrupt, 0),
    0,
  );
  await Promise.all(stores.map((store) => store.close()));
  kind.close();
});

test('a second process keeps the capacity together with the first', async () => {
  const kind = directoryKind('shared');
  const capacityBytes = 10 * 1128;
  const one = (await kind.open({ capacityBytes })) as DirectoryStore;
  const two = (await kind.open({ capacityBytes })) as DirectoryStore;
  await one.put(Array.from({ length: 8 }, (_, i) => blockOf('one', i)));
  await two.put(Array.from({ length: 8 }, (_, i) => blockOf('two', i)));
  await one.rescan();
  await two.rescan();
  assert.ok(one.stats().numBytes <= capacityBytes);
  assert.is(two.stats().numBytes, one.stats().numBytes);
  await Promise.all([one.close(), two.close()]);
  kind.close();
});

test('a Redis server that is away, comes, dies and comes again never makes anybody wait', async () => {
  const away = await RedisStore.open({ ...limits, url: 'redis://127.0.0.1:1', namespace, blockBytes });
  assert.equal(await away.has(['00']), [false]);
  assert.is(await away.put([blockOf('a', 0)]), 0);
  await away.close();
  const server = await startRedis();
  if (!server) return;
  const kind = redisKind(server);
  const store = (await kind.open()) as RedisStore;
  const guarded = new GuardedStore(store, {
    lookupTimeoutMs: 100,
    transferTimeoutMs: 100,
    firstPauseMs: 1,
    maxPauseMs: 1,
  });
  const block = blockOf('a', 0);
  await guarded.put([block]);
  assert.equal(await guarded.has([block.hash]), [true]);
  server.signal('SIGSTOP');
  assert.equal(await guarded.get([block.hash]), [null]);
  server.signal('SIGCONT');
  await until(async () => (await guarded.get([block.hash]))[0] !== null);
  await server.restart();
  await until(
    async () => (await guarded.put([block])) === 1 && (await guarded.has([block.hash]))[0] === true,
  );
  await guarded.close();
  await server.close();
});

test.run();
