// A decode node that was killed and is back at the same address under a new id: what was said of the old one reads nothing.
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type EngineOptions, mergeEngineOptions } from '../../src/engine-options.js';
import { resolveModel } from '../../src/model/resolve-model.js';
import { ClusterNode } from '../../src/server/cluster-node.js';
import type { KvTransferParams } from '../../src/wire.js';
import { allGone } from '../processes.js';
import { eventually } from '../server/proxy/setup.js';
import { type ChatRequest, chat, complete, decode, type Message, post, prefill, query } from './by-hand.js';

const base: EngineOptions = {
  servedModelName: 'tiny',
  numThreads: 1,
  cache: { numBlocks: 40 },
  kvTransfer: { kvRecomputeThreshold: 16, key: 'a key that both of the nodes know' },
};

const question = 'Explain how a kettle knows that the water boils, slowly and from the beginning.';

async function startNode(role: 'prefill' | 'decode', over: EngineOptions = {}): Promise<ClusterNode> {
  const engine = mergeEngineOptions(mergeEngineOptions(base, { model: await resolveModel('tiny') }), over);
  const node = new ClusterNode({ role, engine, port: 0, forwardLogs: false, stopGraceMs: 3000 });
  await node.untilReady(60_000);
  return node;
}

/** Pools that the process has mapped, its own among them. */
function mappedPools(pid: number): number {
  const lines = readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n');
  return new Set(
    lines.filter((line) => line.includes('memfd:vllm-pd-kv')).map((line) => line.split(/\s+/)[4]),
  ).size;
}

const forget = (node: ClusterNode) => post(node.url, '/reset_prefix_cache', {});

/** Two turns through P and D; the third turn's request, its right answer, and what D says that it holds of it. */
async function converse(p: ClusterNode, d: ClusterNode) {
  const messages: Message[] = [{ role: 'user', content: question }];
  const first = chat(messages, 60);
  const answer = await decode(d.url, first, await prefill(p.url, first, null));
  messages.push(
    { role: 'assistant', content: answer.text },
    { role: 'user', content: 'And why is that so?' },
  );
  const next = chat(messages, 40);
  const { text } = await complete(d.url, next);
  const offered = async () => (await query(d.url, next, true)).kv_transfer_params;
  return { next, text, offered };
}

async function prefillStats(p: ClusterNode, body: ChatRequest, offer: KvTransferParams | null) {
  const handOver = await prefill(p.url, body, offer);
  return { handOver, ledger: handOver.remote_prefill_stats!.ledger };
}

for (const agent of ['shm', 'tcp'] as const) {
  test(`${agent}: blocks that were offered before the restart are not read after it`, async () => {
    const segmentsBefore = readdirSync('/dev/shm');
    const nodes: ClusterNode[] = [];
    const start = async (role: 'prefill' | 'decode', over: EngineOptions = {}) => {
      const node = await startNode(role, mergeEngineOptions({ kvTransfer: { agent } }, over));
      nodes.push(node);
      return node;
    };
    try {
      const [p, d] = await Promise.all([start('prefill'), start('decode')]);
      for (const node of [p, d]) node.introduce([p.sideChannel, d.sideChannel]);
      const { next, text, offered } = await converse(p, d);

      // As long as D lives its offer is good for something.
      const { ledger: good, handOver: unused } = await prefillStats(p, next, await offered());
      assert.ok(good.pulled_from_d > 0, JSON.stringify(good));
      await post(p.url, '/v1/cache_query/release', { lease_id: unused.remote_request_id });
      assert.is(mappedPools(p.pid), agent === 'shm' ? 2 : 1);

      const stale = await offered();
      await forget(p);
      process.kill(d.pid, 'SIGKILL');
      assert.ok(await allGone([d.pid]));
      const sideChannelPort = Number(d.sideChannel.split(':').at(-1));
      const restarted = await start('decode', { kvTransfer: { sideChannelPort } });
      assert.is(restarted.sideChannel, d.sideChannel);
      assert.is.not(restarted.engineId, d.engineId);
      for (const node of [p, restarted]) node.introduce([p.sideChannel, restarted.sideChannel]);
      // Every block id that the offer names holds something else now.
      for (let i = 0; i < 6; i += 1) {
        const other = `Number ${i}: name rivers and what they carry to the sea, and then the seas.`;
        await complete(restarted.url, chat([{ role: 'user', content: other }], 90));
      }

      const { ledger, handOver } = await prefillStats(p, next, stale);
      assert.is(ledger.pulled_from_d, 0, JSON.stringify(ledger));
      assert.ok(ledger.transfer_failed + ledger.lease_expired > 0, JSON.stringify(ledger));
      const answer = await decode(restarted.url, next, handOver);
      assert.is(answer.text, text);
      // The new one's own offer works at once.
      await forget(p);
      const fresh = (await query(restarted.url, next, true)).kv_transfer_params;
      assert.is((await prefillStats(p, next, fresh)).ledger.transfer_failed, 0);
      assert.ok(
        await eventually(() => mappedPools(p.pid) <= 2),
        'the dead node’s pool is not mapped any more',
      );
    } finally {
      await Promise.all(nodes.map((node) => node.stop()));
    }
    assert.ok(await allGone(nodes.map(({ pid }) => pid)));
    const left = readdirSync('/dev/shm').filter(
      (name) => !segmentsBefore.includes(name) && name.includes('vllm'),
    );
    assert.equal(left, []);
  });
}

test.run();
