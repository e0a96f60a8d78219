// What a client of a node, or a process beside it, cannot do with the KV transfer of a cluster.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { request } from 'undici';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { createTransferAgent } from '../../src/kv-transfer/create-agent.js';
import { loadNative } from '../../src/native.js';
import { ClusterNode } from '../../src/server/cluster-node.js';
import type { CacheQueryAnswer, KvTransferParams, PrefillStats } from '../../src/wire.js';
import { type TestCluster, withCluster } from '../with-cluster.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';

/** Counts who connects. */
async function withListener(use: (port: number, numCalls: () => number) => Promise<void>): Promise<void> {
  let numCalls = 0;
  const server = createServer((socket) => {
    numCalls += 1;
    socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  try {
    await use((server.address() as { port: number }).port, () => numCalls);
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
}

const prompt = Array.from({ length: 100 }, (_, i) => 100 + ((i * 37) % 300));

function paramsFor(host: string, port: number) {
  return {
    do_remote_prefill: true,
    do_remote_decode: false,
    remote_engine_id: 'somebody',
    remote_request_id: 'something',
    remote_block_ids: [[1, 2, 3, 4, 5, 6, 7]],
    remote_host: host,
    remote_port: port,
  };
}

async function complete(cluster: TestCluster, url: string, kv_transfer_params: object) {
  const body = { prompt, max_tokens: 1, temperature: 0, kv_transfer_params };
  const response = await cluster.post('/v1/completions', body, url);
  return { status: response.status, json: (await response.json()) as { error?: { param: string } } };
}

// Fails without `checkPeer` in Engine.generate, and (the listener) without `introduce` in cluster.ts.
test('kv_transfer_params lead a node to its peers and to nobody else', async () => {
  await withCluster({}, async (cluster) => {
    await withListener(async (port, numCalls) => {
      for (const node of cluster.nodes) {
        for (const host of ['127.0.0.1', 'localhost', '169.254.169.254', 'example.org']) {
          const { status, json } = await complete(cluster, node.url, paramsFor(host, port));
          assert.is(status, 400);
          assert.is(json.error?.param, 'kv_transfer_params.remote_host');
        }
      }
      assert.is(numCalls(), 0);
    });
    // A peer's address is one, although nobody there knows that engine: the prompt is computed instead.
    const [host = '', port] = cluster.nodes[0]!.sideChannel.split(':');
    const { status } = await complete(cluster, cluster.decode[0]!.url, paramsFor(host, Number(port)));
    assert.is(status, 200);
    await cluster.assertWhole();
  });
});

// Fails when cluster.ts gives its nodes no key.
test('a process that knows all about a node but its key reads nothing from it', async () => {
  await withCluster({ engine: { kvTransfer: { agent: 'tcp' } } }, async (cluster) => {
    // Of one token it would be P's alone, and D would hold nothing.
    await cluster.post('/v1/completions', { prompt, max_tokens: 2, ignore_eos: true });
    const { url, engineId, sideChannel } = cluster.decode[0]!;
    const asked = await cluster.post('/v1/cache_query', { prompt, lease: true }, url);
    const { block_ids, block_hashes, lease } = (await asked.json()) as CacheQueryAnswer;
    assert.ok(lease && block_ids.length > 0);
    const [host = '', port] = sideChannel.split(':');
    const layout = {
      numBlocks: 16,
      numLayers: 1,
      numKvHeads: 1,
      blockSize: 16,
      headDim: 8,
      dtype: 'float32',
    } as const;
    const pool = loadNative().createPool(layout);
    const agent = await createTransferAgent({
      config: { agent: 'tcp', sideChannelHost: '127.0.0.1', sideChannelPort: 0 },
      engineId: 'intruder',
      pool,
      compatibility: '',
    });
    try {
      const remote = { engineId, host, port: Number(port), requestId: lease.id };
      const pull = {
        requestId: 'pull',
        remote,
        remoteBlockIds: block_ids,
        localBlockIds: block_ids.map((_, i) => i + 1),
        blockHashes: block_hashes,
      };
      const error = await agent.read(pull, pool).catch((e: Error) => e);
      assert.match(String(error), /The KV transfer keys of the two nodes differ/);
      // Nor can it end what others hold.
      assert.is(await agent.sendNotif(remote, 0), null);
      assert.is((await cluster.stateOf(cluster.decode[0]!)).numHolds, 1);
    } finally {
      await agent.close();
      pool.close();
    }
    await cluster.post('/v1/cache_query/release', { lease_id: lease.id }, url);
    await cluster.assertWhole();
  });
});

// A node that runs has another title; what it was started with is to be seen at its very start.
test('neither keys nor the password of a store are in the command line of a node, not even while it starts', async () => {
  const secrets = ['do not show this to anybody', 'nor-this', 'a-client-key'] as const;
  const [key, password, apiKey] = secrets;
  const engine = {
    model: 'tiny',
    kvTransfer: { key },
    kvStore: { shared: `redis://:${password}@127.0.0.1:1` },
  };
  const options = { role: 'both', engine, port: 0, forwardLogs: false, stopGraceMs: 5000 } as const;
  const node = new ClusterNode({ ...options, apiKeys: [apiKey] });
  try {
    const commandLine = () => readFile(`/proc/${node.pid}/cmdline`, 'utf8').catch(() => null);
    const atFirst = await commandLine();
    if (atFirst === null) return console.log('skipped: no /proc on this system');
    assert.match(atFirst, '--role=both', 'this is how it was started');
    await node.untilReady(60_000);
    for (const secret of secrets) {
      assert.not.match(atFirst, secret);
      assert.not.match((await commandLine()) ?? '', secret);
    }
    const answer = await request(`${node.url}/v1/models`, { headers: { authorization: `Bearer ${apiKey}` } });
    assert.is(answer.statusCode, 200, 'the node knows it all the same');
    await answer.body.dump();
  } finally {
    await node.stop();
  }
});

test('a side channel that other hosts reach needs a key, and keys are not short', async () => {
  const pool = loadNative().createPool({
    numBlocks: 2,
    numLayers: 1,
    numKvHeads: 1,
    blockSize: 16,
    headDim: 8,
    dtype: 'float32',
  });
  const start = (config: { sideChannelHost: string; key?: string; insecure?: boolean }) =>
    createTransferAgent({
      config: { agent: 'auto', sideChannelPort: 0, ...config },
      engineId: 'e',
      pool,
      compatibility: '',
    });
  try {
    for (const config of [
      { sideChannelHost: '192.0.2.1' },
      { sideChannelHost: '127.0.0.1', key: 'short' },
      { sideChannelHost: '127.0.0.1', key: '' },
    ]) {
      const error = await start(config).catch((e) => e);
      assert.is(error.code, 'INVALID_ARGUMENT');
      assert.is(error.param, 'kv-transfer-key');
    }
    // The address is nobody's here; what is said about it is that, and nothing about keys.
    const error = await start({ sideChannelHost: '192.0.2.1', insecure: true }).catch((e) => e);
    assert.match(error.message, /cannot listen on 192\.0\.2\.1/);
  } finally {
    pool.close();
  }
});

interface Completion {
  readonly choices: readonly [{ readonly text: string }];
  readonly usage: { readonly prompt_tokens_details: { readonly cached_tokens: number } };
  readonly kv_transfer_params: KvTransferParams | null;
  readonly prefill_stats: PrefillStats;
}

async function generate(cluster: TestCluster, url: string, body: object): Promise<Completion> {
  const greedy = { max_tokens: 4, temperature: 0, return_prefill_stats: true };
  const response = await cluster.post('/v1/completions', { ...greedy, ...body }, url);
  const text = await response.text();
  assert.is(response.status, 200, text);
  return JSON.parse(text) as Completion;
}

const handsOver = { do_remote_decode: true, do_remote_prefill: false };

// Fails without `withoutForgedClaims` in Engine.believed.
test('a client of a decode node cannot make up what a prefill node had cached', async () => {
  await withCluster({}, async (cluster) => {
    const [p, d] = [cluster.prefill[0]!.url, cluster.decode[0]!.url];
    const prefill = async (ids: readonly number[]) => {
      const body = { prompt: ids, max_tokens: 1, kv_transfer_params: handsOver };
      return (await generate(cluster, p, body)).kv_transfer_params!;
    };
    const decode = async (ids: readonly number[], kv_transfer_params: KvTransferParams) => {
      const { usage, prefill_stats } = await generate(cluster, d, { prompt: ids, kv_transfer_params });
      return { cached: usage.prompt_tokens_details.cached_tokens, hit: prefill_stats.ledger.local_hit };
    };
    await decode(prompt, await prefill(prompt));
    // P has it cached now and says so; what it says is believed.
    assert.equal(await decode(prompt, await prefill(prompt)), { cached: 96, hit: 96 });

    const other = prompt.map((id) => id + 1);
    const honest = await prefill(other);
    assert.is(honest.remote_prefill_cached_tokens, 0);
    const claimed = await prefill(prompt);
    const lies: KvTransferParams[] = [
      { ...honest, remote_prefill_cached_tokens: 90 },
      { ...honest, remote_prefill_stats: claimed.remote_prefill_stats! },
      // Signed, and about another prompt.
      { ...claimed },
    ];
    const { remote_claims_mac: _, ...unsigned } = honest;
    lies.push({ ...unsigned, remote_prefill_cached_tokens: 90 });
    for (const lie of lies) {
      await cluster.post('/reset_prefix_cache?only_free=true', {}, d);
      const { cached, hit } = await decode(other, lie);
      assert.ok(cached === 0 && hit === 0, JSON.stringify({ cached, hit }));
    }
    for (const { remote_request_id: lease_id } of [honest, claimed]) {
      await cluster.post('/v1/cache_query/release', { lease_id }, p);
    }
    await cluster.assertWhole();
  });
});

// Fails when a reader takes the owner's word for what lies in a block.
test("naming another conversation's blocks brings nothing of it into one's own", async () => {
  for (const agent of ['shm', 'tcp'] as const) {
    await withCluster({ engine: { kvTransfer: { agent } } }, async (cluster) => {
      const [p, d] = [cluster.prefill[0]!.url, cluster.decode[0]!.url];
      await generate(cluster, d, { prompt });
      const asked = await cluster.post('/v1/cache_query', { prompt, lease: true }, d);
      const victim = ((await asked.json()) as CacheQueryAnswer).kv_transfer_params!;
      const own = prompt.map((id) => id + 1);
      const expected = (await generate(cluster, d, { prompt: own })).choices[0].text;
      const stolen = await generate(cluster, p, { prompt: own, kv_transfer_params: victim });
      assert.is(stolen.choices[0].text, expected);
      assert.is(stolen.prefill_stats.ledger.pulled_from_d, 0);
      const lease_id = stolen.kv_transfer_params?.remote_request_id;
      if (lease_id) await cluster.post('/v1/cache_query/release', { lease_id }, p);
      await cluster.assertWhole();
    });
  }
});

// Fails when block hashes leave out the salt.
test('with a salt of its own nobody learns what a tenant asked: not by queries, not by the ledger, not by sessions', async () => {
  await withCluster({}, async (cluster) => {
    const d = cluster.decode[0]!.url;
    const session_id = 'guessed';
    const short = prompt.slice(0, 10);
    for (const ids of [prompt, short])
      await generate(cluster, d, { prompt: ids, cache_salt: 'a', session_id });
    const held = async (cache_salt?: string) => {
      const asked = await cluster.post('/v1/cache_query', { prompt, ...(cache_salt && { cache_salt }) }, d);
      const { num_tokens, block_ids, block_hashes } = (await asked.json()) as CacheQueryAnswer;
      return [num_tokens, block_ids.length, block_hashes.length];
    };
    assert.equal(await held('a'), [96, 6, 6]);
    assert.equal(await held('b'), [0, 0, 0]);
    assert.equal(await held(), [0, 0, 0]);
    for (const ids of [prompt, short]) {
      const { prefill_stats, usage } = await generate(cluster, d, {
        prompt: ids,
        // One for each, so that the second does not find its own session.
        cache_salt: `b${ids.length}`,
        session_id,
      });
      assert.is(prefill_stats.ledger.new, ids.length, JSON.stringify(prefill_stats.ledger));
      assert.is(usage.prompt_tokens_details.cached_tokens, 0);
    }
    await cluster.assertWhole();
  });
});

test.run();
