// Stores that fail when told to: a block that was put there is damaged, lost, or out of reach for a while.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createClient } from '@redis/client';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { redisBinary } from '../../src/chaos/chaos-redis.js';
import { openStore } from '../../src/chaos/chaos-store.js';

test('a directory is damaged bit by bit, loses files, fails for a while, and leaves nothing', async () => {
  const store = (await openStore('directory'))!;
  const folder = path.join(store.address, 'ab');
  mkdirSync(folder, { recursive: true });
  const whole = Buffer.alloc(1000, 7);
  for (const name of ['1.kv', '2.kv', '3.kv', 'other']) writeFileSync(path.join(folder, name), whole);
  const damaged = () =>
    readdirSync(folder).filter((name) => !readFileSync(path.join(folder, name)).equals(whole));
  await store.damage();
  assert.equal(damaged(), ['1.kv', '3.kv']);
  await store.lose();
  assert.equal(readdirSync(folder), ['2.kv', 'other']);
  const stopped = store.stop(100);
  assert.throws(() => mkdirSync(folder, { recursive: true }));
  await stopped;
  assert.equal(readdirSync(folder), ['2.kv', 'other'], 'it is back');
  await store.close();
  assert.not.ok(existsSync(path.dirname(store.address)));
});

test('a Redis server is damaged, starts again empty, and leaves no process', async () => {
  if (redisBinary() === null) {
    console.log('skipped: redis-server is not installed');
    return;
  }
  const store = (await openStore('redis'))!;
  const client = createClient({ url: store.address });
  client.on('error', () => {});
  await client.connect();
  try {
    await client.set('block', 'x'.repeat(1000));
    await store.damage();
    assert.is.not(await client.get('block'), 'x'.repeat(1000));
    const stopped = store.stop(200);
    let isOver = false;
    void stopped.then(() => {
      isOver = true;
    });
    await client.get('block');
    assert.ok(isOver, 'it did not answer before');
    await store.lose();
    const again = createClient({ url: store.address });
    await again.connect();
    assert.is(await again.dbSize(), 0);
    again.destroy();
    await store.close();
    const gone = await createClient({ url: store.address, socket: { reconnectStrategy: false } })
      .on('error', () => {})
      .connect()
      .catch((error: unknown) => error);
    assert.ok(gone instanceof Error);
  } finally {
    client.destroy();
    await store.close();
  }
});

test.run();
