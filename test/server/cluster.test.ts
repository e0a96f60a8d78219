// Clusters of real processes: they start, answer, report what dies, and leave nothing behind.
import { once } from 'node:events';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type ErrorCode, VllmPdError } from '../../src/errors.js';
import { resolveModel } from '../../src/model/resolve-model.js';
import { type ClusterOptions, startCluster } from '../../src/server/cluster.js';
import type { PrefillStats } from '../../src/wire.js';
import { allGone, descendantsOf, isAlive } from '../processes.js';
import { type TestCluster, withCluster } from '../with-cluster.js';

const tiny = { model: 'tiny', numThreads: 1, cache: { numBlocks: 64 } };
const chat = '/v1/chat/completions';

interface ChatAnswer {
  readonly choices: readonly { readonly message: { readonly role: string; readonly content: string } }[];
  readonly prefill_stats: PrefillStats;
}

/** Plays a conversation of `numTurns` turns; what the model said, and how P came by each prompt. */
async function converse(cluster: TestCluster, numTurns: number, sessionId = 'talk') {
  const messages = [{ role: 'user', content: 'word '.repeat(60) }];
  const turns: { readonly text: string; readonly stats: PrefillStats }[] = [];
  for (let i = 0; i < numTurns; i++) {
    const body = {
      messages,
      max_tokens: 48,
      temperature: 0,
      session_id: sessionId,
      return_prefill_stats: true,
    };
    const response = await cluster.post(chat, body);
    const text = await response.text();
    assert.is(response.status, 200, text);
    const { choices, prefill_stats } = JSON.parse(text) as ChatAnswer;
    const { message } = choices[0]!;
    messages.push(message, { role: 'user', content: 'go on' });
    turns.push({ text: message.content, stats: prefill_stats });
  }
  return turns;
}

async function failureOf(options: ClusterOptions): Promise<VllmPdError> {
  try {
    const cluster = await startCluster(options);
    await cluster.close();
  } catch (error) {
    assert.ok(error instanceof VllmPdError, String(error));
    return error;
  }
  throw new Error('the cluster started');
}

async function occupyPort(work: (port: number) => Promise<void>): Promise<void> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    await work((server.address() as AddressInfo).port);
  } finally {
    server.close();
  }
}

test('a cluster answers through its proxy and leaves no process behind', async () => {
  let pids: number[] = [];
  await withCluster({}, async (cluster) => {
    pids = cluster.nodes.map((node) => node.pid);
    assert.equal(
      cluster.nodes.map((node) => node.role),
      ['prefill', 'decode'],
    );
    assert.ok(pids.every(isAlive));
    await converse(cluster, 1);
    assert.is((await fetch(`${cluster.proxyUrl}/health`)).status, 200);
    await cluster.assertWhole();
  });
  assert.not(pids.some(isAlive));
  assert.equal(descendantsOf(process.pid), []);
});

test('uni moves KV one way, bi both ways, by query and by ticket, and all say the same', async () => {
  const texts: string[][] = [];
  for (const kvTransfer of [
    { mode: 'uni' },
    { mode: 'bi', lookup: 'query' },
    { mode: 'bi', lookup: 'ticket' },
  ] as const) {
    await withCluster({ engine: { kvTransfer } }, async (cluster) => {
      const turns = await converse(cluster, 3);
      texts.push(turns.map((turn) => turn.text));
      for (const { stats } of turns.slice(1)) {
        const isUni = kvTransfer.mode === 'uni';
        assert.is(stats.ledger.pulled_from_d > 0, !isUni, JSON.stringify(kvTransfer));
        assert.is(stats.ledger.generated_on_d > 0, isUni, JSON.stringify(kvTransfer));
        assert.is(stats.kv_bytes_d_to_p > 0, !isUni);
        assert.ok(stats.kv_bytes_p_to_d > 0);
      }
    });
  }
  assert.equal(texts[1], texts[0]);
  assert.equal(texts[2], texts[0]);
});

test('without prefill nodes the decode node prefills by itself and says the same', async () => {
  const texts: string[][] = [];
  for (const prefill of [1, 0]) {
    await withCluster({ prefill }, async (cluster) => {
      texts.push((await converse(cluster, 2)).map((turn) => turn.text));
      assert.is((await fetch(`${cluster.proxyUrl}/health`)).status, 200);
      assert.is(cluster.decode[0]!.role, prefill === 0 ? 'both' : 'decode');
      await cluster.assertWhole();
    });
  }
  assert.equal(texts[1], texts[0]);
});

test('several nodes of a role share the conversations, options of a role reach only its nodes', async () => {
  const options = { prefill: 2, decode: 2, prefillEngine: { cache: { numBlocks: 48 } } };
  await withCluster(options, async (cluster) => {
    const states = await Promise.all(cluster.nodes.map((node) => cluster.stateOf(node)));
    assert.equal(
      states.map((state) => state.numBlocks),
      [48, 48, 256, 256],
    );
    await Promise.all(['a', 'b'].map((sessionId) => converse(cluster, 1, sessionId)));
    const used = await Promise.all(cluster.nodes.map((node) => cluster.stateOf(node)));
    assert.ok(used.every((state) => state.numCachedBlocks > 0));
    await cluster.assertWhole();
  });
});

test('a killed decode node is reported with its name, the others live on, and the client gets 502', async () => {
  await withCluster({}, async (cluster) => {
    const [prefill, decode] = cluster.nodes;
    const death = new Promise<string>((resolve) =>
      cluster.onNodeDeath((error, node) => resolve(`${node.role}: ${error.code}: ${error.message}`)),
    );
    process.kill(decode!.pid, 'SIGKILL');
    assert.match(
      await death,
      new RegExp(
        `^decode: NODE_UNREACHABLE: The decode node \\(pid ${decode!.pid}\\) was ended by SIGKILL\\.`,
      ),
    );
    assert.ok(isAlive(prefill!.pid));
    const response = await cluster.post('/v1/completions', { prompt: 'a b c', max_tokens: 2 });
    assert.is(response.status, 502);
    assert.match(await response.text(), `The decode node ${decode!.url} does not answer`);
  });
});

test('a killed prefill node costs recomputation only', async () => {
  await withCluster({}, async (cluster) => {
    const before = await converse(cluster, 1);
    process.kill(cluster.prefill[0]!.pid, 'SIGKILL');
    const after = await converse(cluster, 1, 'another');
    assert.is(after[0]!.text, before[0]!.text);
    await cluster.assertWhole();
  });
});

for (const [when, numTokens] of [
  ['while P works', 0],
  ['in mid-stream', 3],
] as const) {
  test(`a client that goes away ${when} leaves both pools whole`, async () => {
    await withCluster({}, async (cluster) => {
      await converse(cluster, 1);
      const controller = new AbortController();
      const body = { prompt: 'word '.repeat(600), max_tokens: 400, temperature: 0, stream: true };
      const response = fetch(`${cluster.proxyUrl}/v1/completions`, {
        method: 'POST',
        body: JSON.stringify(body),
        signal: controller.signal,
      });
      if (numTokens > 0) {
        const reader = (await response).body!.getReader();
        for (let i = 0; i < numTokens; i++) await reader.read();
      } else {
        const deadlineMs = performance.now() + 5000;
        while ((await cluster.stateOf(cluster.prefill[0]!)).numRunning === 0) {
          assert.ok(performance.now() < deadlineMs, 'P was never seen at work');
        }
      }
      controller.abort();
      await response.catch(() => {});
      await cluster.assertWhole();
      await converse(cluster, 1, 'another');
    });
  });
}

test('an occupied port is ADDRESS_IN_USE, whoever wanted it, and nothing stays', async () => {
  await occupyPort(async (port) => {
    const forProxy = await failureOf({ engine: tiny, port });
    assert.is(forProxy.code, 'ADDRESS_IN_USE');
    assert.match(forProxy.message, `Port ${port} on 127.0.0.1 is already in use`);
    const forNode = await failureOf({ engine: tiny, decodePort: port });
    assert.is(forNode.code, 'ADDRESS_IN_USE');
    assert.match(forNode.message, `The decode node could not start: Port ${port}`);
    assert.ok(forNode.suggestions.length > 0);
  });
  assert.equal(descendantsOf(process.pid), []);
});

const badStarts: readonly (readonly [string, ClusterOptions, ErrorCode, RegExp])[] = [
  ['a model that is not there', { engine: { model: '/no/such/folder' } }, 'NOT_FOUND', /no\/such\/folder/],
  ['a folder that is no model', { engine: { model: import.meta.dirname } }, 'BAD_FILE', /config\.json/],
  [
    'a start that takes too long',
    { engine: tiny, startTimeoutMs: 20 },
    'TIMED_OUT',
    /did not start within 0.02 s/,
  ],
];
for (const [what, options, code, sentence] of badStarts) {
  test(`${what} is ${code}, and nothing stays`, async () => {
    const error = await failureOf(options);
    assert.is(error.code, code);
    assert.match(error.message, sentence);
    assert.equal(descendantsOf(process.pid), []);
  });
}

test('a start can be called off', async () => {
  const controller = new AbortController();
  const started = startCluster({ engine: tiny, signal: controller.signal });
  while (descendantsOf(process.pid).length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  controller.abort();
  try {
    await (await started).close();
    assert.unreachable('the cluster started');
  } catch (error) {
    assert.ok(error instanceof VllmPdError, String(error));
  }
  assert.equal(descendantsOf(process.pid), []);
});

test('a node that does not react to SIGTERM is killed', async () => {
  const cluster = await startCluster({ engine: tiny, stopGraceMs: 200 });
  const [prefill] = cluster.nodes;
  process.kill(prefill!.pid, 'SIGSTOP');
  await Promise.all([cluster.close(), cluster.close()]);
  assert.ok(
    await allGone(
      cluster.nodes.map((node) => node.pid),
      0,
    ),
  );
});

test('a request that runs when the cluster stops does not keep it', async () => {
  const cluster = await startCluster({ engine: tiny });
  const body = { prompt: 'a b c', max_tokens: 900, stream: true, temperature: 0 };
  const response = await fetch(`${cluster.proxyUrl}/v1/completions`, {
    method: 'POST',
    body: JSON.stringify(body),
  });
  await response.body!.getReader().read();
  const startedMs = performance.now();
  await cluster.close();
  assert.ok(performance.now() - startedMs < 6000);
  assert.equal(descendantsOf(process.pid), []);
});

test('the first start says how much of the weights is packed, the second one finds them', async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-packing-'));
  try {
    const model = path.join(folder, 'model');
    const made = await resolveModel('default', { backend: 'cpu' });
    cpSync(made, model, { recursive: true, filter: (file) => path.basename(file) !== '.vllm-pd' });
    const fractions: number[] = [];
    const start = async () => {
      const engine = { ...tiny, model };
      const cluster = await startCluster({ engine, onPacked: (fraction) => fractions.push(fraction) });
      await cluster.close();
    };
    await start();
    assert.ok(fractions.length > 0);
    assert.ok(fractions.every((fraction) => fraction > 0 && fraction <= 1));
    // One node packs, the other waits for it.
    assert.equal(
      fractions,
      [...fractions].sort((a, b) => a - b),
    );
    fractions.length = 0;
    await start();
    assert.equal(fractions, []);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.run();
