// The first, third and fifth promise when something goes wrong in the middle of a turn: never a wrong token, never a lost block.
import { setTimeout as sleep } from 'node:timers/promises';
import { request } from 'undici';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { withCluster } from '../with-cluster.js';
import { type ChatRequest, chat, complete, decode, type Message, post, prefill, query } from './by-hand.js';

const numAnswerTokens = 100;
const opening: Message = { role: 'user', content: 'Tell a long story about a lighthouse and its keeper.' };
const followUp: Message = { role: 'user', content: 'What happened to the lamp?' };

const first = chat([opening], numAnswerTokens, 'story');
const second = (answer: string): ChatRequest =>
  chat([opening, { role: 'assistant', content: answer }, followUp], numAnswerTokens, 'story');

/** What both turns must say, whatever happens. */
const reference = await withCluster({ prefill: 0, decode: 1 }, async (cluster) => {
  const one = await complete(cluster.proxyUrl, first);
  const two = await complete(cluster.proxyUrl, second(one.text));
  return { one: one.text, two: two.text };
});

async function firstTurnByHand(prefillUrl: string, decodeUrl: string): Promise<void> {
  const answer = await decode(decodeUrl, first, await prefill(prefillUrl, first, null));
  assert.is(answer.text, reference.one);
}

test('a lease that expires and whose blocks are evicted between query and read costs recomputation only', async () => {
  const engine = { kvTransfer: { mode: 'bi', kvLeaseDurationMs: 300 } } as const;
  await withCluster({ engine }, async (cluster) => {
    const p = cluster.prefill[0]!.url;
    const node = cluster.decode[0]!;
    const d = node.url;
    await firstTurnByHand(p, d);
    const body = second(reference.one);
    const found = await query(d, body, true);
    assert.ok(found.num_tokens > 100);
    await sleep(400);
    assert.is((await cluster.stateOf(node)).numHolds, 0);
    await post(d, '/reset_prefix_cache', {});
    assert.is((await cluster.stateOf(node)).numCachedBlocks, 0);
    const answer = await decode(d, body, await prefill(p, body, found.kv_transfer_params));
    assert.is(answer.text, reference.two);
    assert.ok(answer.stats.ledger.lease_expired > 0);
    assert.is(answer.stats.ledger.pulled_from_d, 0);
    await cluster.assertWhole();
  });
});

test('a decode node killed after the query costs recomputation; another one answers the same', async () => {
  await withCluster({ decode: 2, engine: { kvTransfer: { mode: 'bi' } } }, async (cluster) => {
    const p = cluster.prefill[0]!.url;
    const [d, other] = [cluster.decode[0]!, cluster.decode[1]!];
    await firstTurnByHand(p, d.url);
    const body = second(reference.one);
    const found = await query(d.url, body, true);
    process.kill(d.pid, 'SIGKILL');
    const answer = await decode(other.url, body, await prefill(p, body, found.kv_transfer_params));
    assert.is(answer.text, reference.two);
    assert.ok(answer.stats.ledger.transfer_failed > 0);
    await cluster.assertWhole();
  });
});

test('a prefill node killed between two turns costs nothing but its cache: the proxy lets D answer', async () => {
  await withCluster({ engine: { kvTransfer: { mode: 'bi' } } }, async (cluster) => {
    const one = await complete(cluster.proxyUrl, first);
    process.kill(cluster.prefill[0]!.pid, 'SIGKILL');
    const two = await complete(cluster.proxyUrl, second(one.text));
    assert.equal([one.text, two.text], [reference.one, reference.two]);
    await cluster.assertWhole();
  });
});

test('preemption on small pools changes no answer', async () => {
  const bodies = ['red', 'green', 'blue', 'white'].map((colour) =>
    chat([{ role: 'user', content: `Say what is ${colour} and why that is so.` }], 150, colour),
  );
  const alone = await withCluster({ prefill: 0, decode: 1 }, async (cluster) => {
    const texts: string[] = [];
    for (const body of bodies) texts.push((await complete(cluster.proxyUrl, body)).text);
    return texts;
  });
  // 24 blocks hold 368 tokens; four requests grow to about 200 each.
  for (const mode of ['uni', 'bi'] as const) {
    const engine = { cache: { numBlocks: 24 }, scheduler: { maxModelLen: 320 }, kvTransfer: { mode } };
    await withCluster({ engine }, async (cluster) => {
      const answers = await Promise.all(bodies.map((body) => complete(cluster.proxyUrl, body)));
      assert.equal(
        answers.map((answer) => answer.text),
        alone,
      );
      const metrics = await request(`${cluster.decode[0]!.url}/metrics`);
      const preemptions = /^vllm:num_preemptions_total\S* (\d+)/m.exec(await metrics.body.text());
      assert.ok(Number(preemptions?.[1]) > 0, 'the pool was small enough to preempt');
      await cluster.assertWhole();
    });
  }
});

test('a client that leaves in the middle of a stream leaves nothing behind and the next turn is right', async () => {
  await withCluster({ engine: { kvTransfer: { mode: 'bi' } } }, async (cluster) => {
    const one = await complete(cluster.proxyUrl, first);
    const abort = new AbortController();
    const response = await request(`${cluster.proxyUrl}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...second(one.text), max_tokens: 4000, min_tokens: 4000, stream: true }),
      signal: abort.signal,
    });
    for await (const chunk of response.body) {
      assert.ok(chunk.length > 0);
      break;
    }
    abort.abort();
    response.body.destroy();
    await cluster.assertWhole();
    const two = await complete(cluster.proxyUrl, second(one.text));
    assert.is(two.text, reference.two);
    await cluster.assertWhole();
  });
});

test.run();
