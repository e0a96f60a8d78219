// Stores that lie, vanish, fill up or hang in the middle of a conversation: the same greedy text, and whole pools.
import { readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { startRedis } from '../kv-store/redis-server.js';
import { withCluster } from '../with-cluster.js';
import { evict, folder, options, play, settled } from './store-turns.js';

const reference = await withCluster({ prefill: 0, decode: 1 }, (cluster) => play(cluster, 'reference'));

function filesIn(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .map((name) => path.join(directory, name))
    .filter((file) => file.endsWith('.kv') && statSync(file).isFile());
}

for (const [what, act] of Object.entries({
  'corrupted files': (directory: string) => {
    for (const file of filesIn(directory)) writeFileSync(file, Buffer.alloc(statSync(file).size, 1));
  },
  'a directory that is deleted': (directory: string) => rmSync(directory, { recursive: true }),
})) {
  test(`${what} between two turns change no answer`, async () => {
    const address = folder();
    await withCluster(options('bi', { shared: address }), async (cluster) => {
      const played = await play(cluster, what, async () => {
        await settled(cluster);
        await evict(cluster, 'prefill');
        act(address);
      });
      assert.equal(played.texts, reference.texts);
      await cluster.assertWhole();
    });
    rmSync(address, { recursive: true, force: true });
  });
}

test('a store with no room for anything changes no answer and holds up nobody', async () => {
  const address = folder();
  const kvStore = { shared: address, sharedTier: { capacityBytes: 100 } };
  await withCluster(options('bi', kvStore), async (cluster) => {
    const played = await play(cluster, 'full');
    assert.equal(played.texts, reference.texts);
    assert.equal(filesIn(address), []);
    await cluster.assertWhole();
  });
  rmSync(address, { recursive: true });
});

test('a Redis server that is stopped, killed and started again in the middle changes no answer', async () => {
  const redis = await startRedis();
  if (!redis) return;
  await withCluster(options('bi', { shared: redis.url }), async (cluster) => {
    const acts = [() => redis.signal('SIGSTOP'), () => redis.restart()];
    const played = await play(cluster, 'killed', async (turn) => {
      await evict(cluster, 'prefill');
      await acts[turn - 1]!();
    });
    assert.equal(played.texts, reference.texts);
    await cluster.assertWhole();
  });
  await redis.close();
});

test.run();
