// Routing over real nodes: who plays a turn under each policy, and that the answer is the same whoever does.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { RoutingPolicy } from '../../../src/config.js';
import type { ClusterNode } from '../../../src/server/cluster.js';
import { chat, complete, type Message } from '../../promises/by-hand.js';
import { type TestCluster, withCluster } from '../../with-cluster.js';
import { eventually } from './setup.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';

const numAnswerTokens = 40;
const lengthy =
  'Go on, and tell of every house beside the road, of who lives in it, and of what they had for dinner.';
const openings = [
  'Explain how a kettle knows that the water boils, in many words and with patience.',
  'Name rivers and what they carry to the sea, from the mountains to the delta.',
  'Tell of a lighthouse whose keeper has not slept for a week, and of the ships.',
];
const followUps = ['And why is that so?', 'Now say it the other way around, please.'];

interface Played {
  readonly texts: string[][];
  /** `by[conversation][turn]`: which node of the role ran it, by its index. */
  readonly prefilledBy: number[][];
  readonly decodedBy: number[][];
}

/** Prompt and answer tokens that a node has run: they grow on the node that plays a turn. */
async function tokensOf(node: ClusterNode, metric: 'prompt' | 'generation'): Promise<number> {
  const text = await (await fetch(`${node.url}/metrics`)).text();
  const line = new RegExp(`^vllm:${metric}_tokens_total\\{[^}]*\\} (\\S+)`, 'm').exec(text);
  if (!line) throw new Error(`no vllm:${metric}_tokens_total in the metrics of ${node.url}`);
  return Number(line[1]);
}

const runTokens = (nodes: readonly ClusterNode[]) =>
  Promise.all(nodes.map((node) => tokensOf(node, 'generation')));

/** Indices of those that have run more than before. */
function grown(before: readonly number[], after: readonly number[]): number[] {
  return after.flatMap((tokens, i) => (tokens > before[i]! ? [i] : []));
}

/** One turn, and the nodes that played it. */
async function playTurn(cluster: TestCluster, messages: readonly Message[], sessionId?: string) {
  const [prefillBefore, decodeBefore] = [await runTokens(cluster.prefill), await runTokens(cluster.decode)];
  const { text } = await complete(cluster.proxyUrl, chat(messages, numAnswerTokens, sessionId));
  const prefillers = grown(prefillBefore, await runTokens(cluster.prefill));
  const decoders = grown(decodeBefore, await runTokens(cluster.decode));
  return { text, prefiller: prefillers[0] ?? -1, decoder: decoders[0] ?? -1, prefillers, decoders };
}

/** Three turns of three conversations, one at a time, turn-major. */
async function play(cluster: TestCluster, withSession: boolean): Promise<Played> {
  const histories: Message[][] = openings.map(() => []);
  const played = {
    texts: openings.map((): string[] => []),
    prefilledBy: openings.map((): number[] => []),
    decodedBy: openings.map((): number[] => []),
  };
  for (let turn = 0; turn < 3; turn += 1) {
    for (const [i, history] of histories.entries()) {
      history.push({ role: 'user', content: turn === 0 ? openings[i]! : followUps[turn - 1]! });
      const { text, prefiller, decoder } = await playTurn(
        cluster,
        history,
        withSession ? `c-${i}` : undefined,
      );
      history.push({ role: 'assistant', content: text });
      played.texts[i]!.push(text);
      played.prefilledBy[i]!.push(prefiller);
      played.decodedBy[i]!.push(decoder);
    }
  }
  return played;
}

const aggregated = await withCluster({ prefill: 0, decode: 1 }, async (cluster) => {
  const histories: Message[][] = openings.map(() => []);
  const texts = openings.map((): string[] => []);
  for (let turn = 0; turn < 3; turn += 1) {
    for (const [i, history] of histories.entries()) {
      history.push({ role: 'user', content: turn === 0 ? openings[i]! : followUps[turn - 1]! });
      const { text } = await complete(cluster.proxyUrl, chat(history, numAnswerTokens));
      history.push({ role: 'assistant', content: text });
      texts[i]!.push(text);
    }
  }
  return texts;
});

async function withPolicies(
  prefillRouting: RoutingPolicy,
  decodeRouting: RoutingPolicy,
  work: (cluster: TestCluster) => Promise<void>,
): Promise<void> {
  const proxy = { prefillRouting, decodeRouting };
  await withCluster({ prefill: 2, decode: 2, proxy }, async (cluster) => {
    await work(cluster);
    await cluster.assertWhole();
  });
}

/** `role policy reason` → how often. */
async function routedBy({ proxyUrl }: TestCluster): Promise<Record<string, number>> {
  const text = await (await fetch(`${proxyUrl}/metrics`)).text();
  const counts: Record<string, number> = {};
  const pattern =
    /^vllm_pd:proxy_routing_total\{role="([^"]*)",policy="([^"]*)",reason="([^"]*)",node="[^"]*"\} (\d+)$/gm;
  for (const [, role, policy, reason, count] of text.matchAll(pattern)) {
    const key = `${role} ${policy} ${reason}`;
    counts[key] = (counts[key] ?? 0) + Number(count);
  }
  return counts;
}

const distinct = (turns: readonly number[]) => new Set(turns).size;

test('session: conversations stick to their nodes, and are spread over all', () =>
  withPolicies('session', 'session', async (cluster) => {
    const { texts, prefilledBy, decodedBy } = await play(cluster, true);
    assert.equal(texts, aggregated);
    for (const turns of [...prefilledBy, ...decodedBy]) assert.is(distinct(turns), 1, String(turns));
    assert.is(distinct(prefilledBy.flat()), 2);
    assert.is(distinct(decodedBy.flat()), 2);
    const counts = await routedBy(cluster);
    assert.is(counts['prefill session turn'], 3);
    assert.is(counts['decode session home'], 6);
  }));

test('round-robin: turns alternate, whatever conversation they belong to', () =>
  withPolicies('round-robin', 'round-robin', async (cluster) => {
    const { texts, prefilledBy, decodedBy } = await play(cluster, true);
    assert.equal(texts, aggregated);
    for (const by of [prefilledBy, decodedBy]) {
      const inOrder = [0, 1, 2].flatMap((turn) => by.map((turns) => turns[turn]!));
      assert.equal(
        inOrder,
        inOrder.map((_, i) => i % 2),
        'one after the other',
      );
    }
    assert.is((await routedBy(cluster))['decode round-robin turn'], 9);
  }));

test('prefix: a turn goes to the node that holds the longest prefix of it, without any session', () =>
  withPolicies('prefix', 'prefix', async (cluster) => {
    const { texts, decodedBy, prefilledBy } = await play(cluster, false);
    assert.equal(texts, aggregated);
    for (const turns of [...prefilledBy, ...decodedBy]) assert.is(distinct(turns), 1, String(turns));
    // Nobody held anything of the first turns: these went to whoever had least to do, in turn.
    assert.is(distinct(decodedBy.flat()), 2);
    const counts = await routedBy(cluster);
    assert.is(counts['decode prefix prefix'], 6);

    // The same conversation, one turn of it on one node and two on the other: the longer one is chosen.
    const long: Message[] = [
      { role: 'user', content: 'Once more, and from the beginning, about the long road.' },
    ];
    const [first, second] = cluster.decode;
    await complete(first!.url, chat(long, numAnswerTokens));
    const { text } = await complete(second!.url, chat(long, numAnswerTokens));
    const longer: Message[] = [
      ...long,
      { role: 'assistant', content: text },
      { role: 'user', content: lengthy },
    ];
    await complete(second!.url, chat(longer, numAnswerTokens));
    for (let i = 0; i < 2; i += 1) assert.equal((await playTurn(cluster, longer)).decoders, [1]);
  }));

test('least-loaded: a busy node is avoided as long as it is, one that another client keeps busy too', () =>
  withPolicies('least-loaded', 'least-loaded', async (cluster) => {
    // Straight to the node: the proxy knows of it only because the node says so.
    const [busy] = cluster.decode;
    const client = new AbortController();
    const body = { prompt: 'count without end', max_tokens: 3500, ignore_eos: true, stream: true };
    const running = await fetch(`${busy!.url}/v1/completions`, {
      method: 'POST',
      body: JSON.stringify(body),
      signal: client.signal,
    });
    const isBusy = async () => (await cluster.stateOf(busy!)).numRunning === 1;
    assert.ok(await eventually(isBusy));
    for (const opening of openings) {
      const { text, decoders } = await playTurn(cluster, [{ role: 'user', content: opening }]);
      assert.is(text, aggregated[openings.indexOf(opening)]![0]);
      assert.ok(decoders.includes(1), 'the idle node decodes');
    }
    const counts = await routedBy(cluster);
    assert.is(counts['decode least-loaded load'], 3);
    const nodes = (await (await fetch(`${cluster.proxyUrl}/nodes`)).json()) as {
      readonly data: readonly { readonly url: string; readonly load: number }[];
    };
    assert.equal(
      nodes.data.map(({ load }) => load),
      [0, 0, 0, 0],
      'no turn of this proxy is under way',
    );
    assert.ok(await isBusy(), 'it was busy all the time');
    client.abort();
    await running.body?.cancel().catch(() => {});
  }));

test('least-loaded: turns that come together are spread', () =>
  withPolicies('least-loaded', 'least-loaded', async (cluster) => {
    const before = await runTokens(cluster.decode);
    await Promise.all(
      openings
        .concat(openings)
        .map((content) => complete(cluster.proxyUrl, chat([{ role: 'user', content }], numAnswerTokens))),
    );
    const after = await runTokens(cluster.decode);
    const [first, second] = after.map((tokens, i) => tokens - before[i]!);
    assert.ok(first! > 0);
    assert.is(first, second, 'three turns each');
  }));

test('phases have policies of their own', () =>
  withPolicies('round-robin', 'session', async (cluster) => {
    const { texts, prefilledBy, decodedBy } = await play(cluster, true);
    assert.equal(texts, aggregated);
    for (const turns of decodedBy) assert.is(distinct(turns), 1);
    assert.ok(prefilledBy.some((turns) => distinct(turns) === 2));
  }));

test.run();
