// What a client of a node, or a process beside it, cannot do with the KV transfer of a cluster.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { createTransferAgent } from '../../src/kv-transfer/create-agent.js';
import { loadNative } from '../../src/native.js';
import type { CacheQueryAnswer } from '../../src/wire.js';
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
    await cluster.post('/v1/completions', { prompt, max_tokens: 1 });
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

// Fails when cluster-node.ts hands the key over as a flag.
test('the key is not in the command line of any node', async () => {
  const key = 'do not show this to anybody';
  await withCluster({ engine: { kvTransfer: { key } } }, async (cluster) => {
    for (const { pid } of cluster.nodes) {
      const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => null);
      if (commandLine === null) console.log('skipped: no /proc on this system');
      else assert.not.match(commandLine, key);
    }
    const response = await cluster.post('/v1/completions', { prompt, max_tokens: 2, temperature: 0 });
    assert.is(response.status, 200);
    await cluster.assertWhole();
  });
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

test.run();
