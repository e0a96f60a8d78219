// Stores that fail when told to: a block that was put there is damaged, lost, or out of reach for a while.
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { createClient } from '@redis/client';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { redisBinary } from '../../src/chaos/chaos-redis.js';
import type { ChaosStore } from '../../src/chaos/chaos-store.js';
import { openStore } from '../../src/chaos/open-chaos-store.js';

const run = promisify(execFile);

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
  await store.lose(0);
  assert.equal(readdirSync(folder), ['2.kv', 'other']);
  const stopped = store.stop(100);
  assert.throws(() => mkdirSync(folder, { recursive: true }));
  await stopped;
  assert.equal(readdirSync(folder), ['2.kv', 'other'], 'it is back');
  await store.close();
  assert.not.ok(existsSync(path.dirname(store.address)));
});

test('a directory is full, write-protected and slow for the processes that have its environment, and for a while', async () => {
  const store = (await openStore('directory'))!;
  try {
    mkdirSync(store.address);
    writeFileSync(path.join(store.address, 'kept'), 'kept');
    const during = async (fault: Promise<void>) => {
      const seen = await probe(store);
      await fault;
      return seen;
    };
    const well = await during(Promise.resolve());
    assert.equal([well.written, well.read], ['ok', 'kept']);
    assert.equal((await during(store.fill(1000))).written, 'ENOSPC');
    const guarded = await during(store.protect(1000));
    assert.equal([guarded.written, guarded.read], ['EACCES', 'kept'], 'what is there can be read');
    assert.ok((await during(store.slow(1000))).ms > 150, 'two calls, each of which waits');
    assert.is((await probe(store)).written, 'ok', 'it is over');
  } finally {
    await store.close();
  }
});

/** What another process makes of the store's directory; `ms`: how long that took. */
async function probe({ address, env }: ChaosStore) {
  const script = `
    import { readFile, writeFile } from 'node:fs/promises';
    const startedAt = performance.now();
    const written = await writeFile(${JSON.stringify(path.join(address, 'new'))}, 'x').then(() => 'ok', ({ code }) => code);
    const read = await readFile(${JSON.stringify(path.join(address, 'kept'))}, 'utf8');
    console.log(JSON.stringify({ written, read, ms: performance.now() - startedAt }));`;
  const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', script], {
    env: { ...process.env, ...env },
  });
  return JSON.parse(stdout) as { written: string; read: string; ms: number };
}

test('a Redis server that is full or alone takes nothing new and gives what it has, for a while', async () => {
  if (redisBinary() === null) {
    console.log('skipped: redis-server is not installed');
    return;
  }
  const store = (await openStore('redis'))!;
  const client = createClient({ url: store.address });
  client.on('error', () => {});
  await client.connect();
  try {
    await client.set('block', 'x');
    for (const fault of ['fill', 'protect'] as const) {
      const under = store[fault](300);
      const refused = await until(() => client.set('new', 'y').then(() => null, String));
      assert.match(refused, fault === 'fill' ? /OOM/ : /NOREPLICAS/);
      assert.is(await client.get('block'), 'x');
      await under;
      assert.is(await client.set('new', 'y'), 'OK', 'it is over');
    }
    await store.slow(300);
    assert.is(await client.get('block'), 'x');
  } finally {
    client.destroy();
    await store.close();
  }
});

/** Asks again until there is an answer. */
async function until<T>(ask: () => Promise<T | null>): Promise<T> {
  for (;;) {
    const answer = await ask();
    if (answer !== null) return answer;
  }
}

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
    await store.lose(0);
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
