// Stores beyond the pools over real processes: the same greedy text wherever blocks come from, and none travels twice.
import { rmSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KvStoreOptions } from '../../src/engine-options.js';
import { startRedis } from '../kv-store/redis-server.js';
import { withCluster } from '../with-cluster.js';
import { chat, query } from './by-hand.js';
import { evict, folder, metric, opening, options, play, settled } from './store-turns.js';

const reference = await withCluster({ prefill: 0, decode: 1 }, (cluster) => play(cluster, 'reference'));

const redis = await startRedis();
const shared = { directory: folder(), ...(redis && { redis: redis.url }) };

for (const [name, address] of Object.entries(shared)) {
  for (const mode of ['uni', 'bi'] as const) {
    test(`a shared store (${name}) in ${mode}: the same text, and nothing takes two hops`, async () => {
      await withCluster(options(mode, { shared: address }), async (cluster) => {
        const played = await play(cluster, `${name} ${mode}`, async () => {
          await settled(cluster);
          await evict(cluster, 'prefill');
        });
        assert.equal(played.texts, reference.texts);
        for (const { stats } of played.answers.slice(1)) {
          assert.ok(
            stats.ledger.pulled_from_store > 100,
            'P read from the store what it had lost and what D generated',
          );
          assert.is(stats.ledger.evicted, 0);
          assert.is(stats.two_hop_bytes, 0);
          assert.ok((stats.kv_hop_bytes?.shared_to_p ?? 0) > 0);
          assert.is(stats.kv_bytes_d_to_p, 0, 'what D generated is read from the store');
        }
        for (const { url } of cluster.nodes)
          assert.is(await metric(url, 'vllm_pd:kv_two_hop_bytes_total'), 0);
        await cluster.assertWhole();
      });
    });
  }
}

// In bi P asks D for what both could read in the store; in uni D asks P.
for (const [mode, name] of [
  ['bi', 'directory'],
  ['uni', redis ? 'redis' : 'directory'],
] as const) {
  const address = shared[name]!;
  test(`${name} in ${mode} without the hop planner: the same text, and what travels twice is counted`, async () => {
    const kvStore = { shared: address, hopPlanner: false };
    await withCluster(options(mode, kvStore), async (cluster) => {
      const played = await play(cluster, `${name} ${mode} two hops`, async () => {
        await settled(cluster);
        await evict(cluster, mode === 'bi' ? 'prefill' : 'decode');
      });
      assert.equal(played.texts, reference.texts);
      const { stats } = played.answers.at(-1)!;
      const { two_hop_bytes: twoHopBytes = 0, kv_bytes_d_to_p: toP, kv_bytes_p_to_d: toD } = stats;
      assert.ok(twoHopBytes > 0, 'it is counted');
      assert.ok(twoHopBytes <= toP + toD, 'and is part of what moved');
      assert.ok((mode === 'bi' ? toP : toD) > 0);
      await cluster.assertWhole();
    });
  });
}

test('D reads from the shared store what P names, instead of being sent it', async () => {
  const address = folder();
  await withCluster(options('uni', { shared: address }), async (cluster) => {
    const played = await play(cluster, 'named', async () => {
      await settled(cluster);
      await evict(cluster, 'decode');
    });
    assert.equal(played.texts, reference.texts);
    const { stats } = played.answers[2]!;
    assert.ok((stats.kv_hop_bytes?.shared_to_d ?? 0) > stats.kv_bytes_p_to_d);
    assert.is(stats.two_hop_bytes, 0);
    await cluster.assertWhole();
  });
  rmSync(address, { recursive: true });
});

for (const [name, kvStore] of Object.entries({
  memory: { memoryBytes: 2 ** 28 },
  directory: { directory: folder() },
} satisfies Record<string, KvStoreOptions>)) {
  test(`a node's own ${name} gives back what its pool lost, and says so in cache queries`, async () => {
    await withCluster(options('uni', kvStore), async (cluster) => {
      const p = cluster.prefill[0]!.url;
      const played = await play(cluster, name, async (turn) => {
        await settled(cluster);
        await evict(cluster, 'prefill');
        if (turn > 1) return;
        const found = await query(p, chat([{ role: 'user', content: opening }], 1), false);
        assert.is(found.num_blocks, 0);
        assert.ok(found.block_tiers!.length >= 2);
        assert.ok(found.block_tiers!.every((tiers) => tiers.join() === 'dedicated'));
      });
      assert.equal(played.texts, reference.texts);
      for (const { stats } of played.answers.slice(1)) {
        assert.ok(stats.ledger.pulled_from_store > 0);
        assert.ok((stats.kv_hop_bytes?.dedicated_to_p ?? 0) > 0);
        assert.is(stats.ledger.evicted, 0);
      }
      await cluster.assertWhole();
    });
  });
}

test.after(async () => {
  await redis?.close();
  rmSync(shared.directory, { recursive: true, force: true });
});

test.run();
