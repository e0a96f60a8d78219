// API keys from end to end: nodes, proxy, the clients that this project brings, and where keys must not be seen.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BenchClient } from '../../src/bench/client.js';
import { listNodes } from '../../src/bench/node-probe.js';
import type { VllmPdError } from '../../src/errors.js';
import { queryCaches } from '../../src/server/cache-query-client.js';
import { withCluster } from '../with-cluster.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';

const key = 'the-key-of-this-test';
const prompt = Array.from({ length: 70 }, (_, i) => 100 + ((i * 37) % 300));
const body = JSON.stringify({ prompt, max_tokens: 3, temperature: 0 });

const dataPaths = [
  ['POST', '/v1/completions'],
  ['POST', '/v1/chat/completions'],
  ['POST', '/v1/cache_query'],
  ['POST', '/v1/cache_query/release'],
  ['POST', '/tokenize'],
  ['POST', '/detokenize'],
  ['POST', '/reset_prefix_cache'],
  ['GET', '/v1/models'],
  ['GET', '/state'],
  ['GET', '/nodes'],
] as const;

test('every data path of every node and of the proxy needs the key, and with it a turn works', async () => {
  await withCluster({ apiKeys: [key, 'another-key'] }, async (cluster) => {
    const urls = [cluster.proxyUrl, ...cluster.nodes.map(({ url }) => url)];
    for (const url of urls) {
      for (const [method, path] of dataPaths) {
        const response = await fetch(url + path, { method, ...(method === 'POST' && { body }) });
        assert.is(response.status, 401, `${method} ${url}${path}`);
        await response.text();
      }
      for (const path of ['/health', '/metrics', '/version']) {
        const response = await fetch(url + path);
        assert.is(response.status, 200, `${url}${path}`);
        await response.text();
      }
    }
    for (const authorization of [`Bearer ${key}`, 'Bearer another-key']) {
      const answer = await fetch(`${cluster.proxyUrl}/v1/completions`, {
        method: 'POST',
        body,
        headers: { authorization },
      });
      assert.is(answer.status, 200, await answer.text());
    }
    // Both nodes were asked, by the proxy with its own key: P has prefilled, D was queried.
    const rows = await queryCaches(cluster.proxyUrl, { prompt }, key);
    assert.equal(
      rows.map(({ answer }) => answer?.num_tokens),
      [64, 64],
    );
    const refused = await queryCaches(cluster.proxyUrl, { prompt }).catch((error: VllmPdError) => error);
    assert.is((refused as VllmPdError).code, 'UNAUTHORIZED');
    const client = new BenchClient(cluster.proxyUrl, { timeoutMs: 5000, apiKey: key });
    try {
      assert.ok((await listNodes(client)).every(({ state }) => state?.numHolds === 0));
    } finally {
      await client.close();
    }
  });
});

const bin = fileURLToPath(new URL('../../src/bin.js', import.meta.url));

// Fails without `process.title` in serve.ts.
test('keys given as flags are gone from the command line once it serves', async () => {
  const args = [
    'serve',
    '--role=proxy',
    '--port=0',
    '--json',
    '--decode-url=http://127.0.0.1:1',
    `--api-key=${key}`,
  ];
  const child = spawn(process.execPath, [bin, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    assert.not.match(String(line), key);
    const commandLine = await readFile(`/proc/${child.pid}/cmdline`, 'utf8').catch(() => null);
    if (commandLine === null) console.log('skipped: no /proc on this system');
    else assert.not.match(commandLine, key);
    const { served } = JSON.parse(String(line)) as { served: { url: string }[] };
    assert.is((await fetch(`${served[0]!.url}/nodes`)).status, 401);
  } finally {
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
});

test.run();
