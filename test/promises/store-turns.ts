// One conversation over a cluster with stores, for tests: turns, what acts between them, what the nodes count.
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { request } from 'undici';
import * as assert from 'uvu/assert';
import type { EngineOptions, KvStoreOptions } from '../../src/engine-options.js';
import { ledgerBins } from '../../src/wire.js';
import type { TestCluster } from '../with-cluster.js';
import { type Answer, chat, complete, type Message, post } from './by-hand.js';

const numAnswerTokens = 70;
export const opening =
  'Tell a long story about a lighthouse, its keeper, the sea around it and the ships that pass by every night.';
const followUps = ['What happened to the lamp in the end?', 'And who went there afterwards, and why?'];

interface Played {
  readonly texts: readonly string[];
  readonly answers: readonly Answer[];
}

/** One conversation of three turns; `between` acts before each turn but the first. */
export async function play(
  cluster: TestCluster,
  session: string,
  between: (turn: number) => Promise<void> = async () => {},
): Promise<Played> {
  const history: Message[] = [];
  const answers: Answer[] = [];
  for (let turn = 0; turn <= followUps.length; turn += 1) {
    if (turn > 0) await between(turn);
    history.push({ role: 'user', content: turn === 0 ? opening : followUps[turn - 1]! });
    const answer = await complete(cluster.proxyUrl, chat(history, numAnswerTokens, session));
    const { ledger, num_prompt_tokens } = answer.stats;
    assert.is(
      ledgerBins.reduce((sum, bin) => sum + ledger[bin], 0),
      num_prompt_tokens,
    );
    history.push({ role: 'assistant', content: answer.text });
    answers.push(answer);
  }
  return { texts: answers.map(({ text }) => text), answers };
}

export async function metric(url: string, name: string, labels = ''): Promise<number> {
  const { body } = await request(`${url}/metrics`);
  const line = (await body.text()).split('\n').find((row) => row.startsWith(name) && row.includes(labels));
  return Number(line?.split(' ').at(-1) ?? 0);
}

/** Until nothing waits to be written on any node: write-behind owes nobody a time. */
export async function settled(cluster: TestCluster): Promise<void> {
  for (const { url } of cluster.nodes) {
    while ((await metric(url, 'vllm_pd:kv_store_queued_blocks')) > 0) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

export const evict = async (cluster: TestCluster, role: string) => {
  await post(cluster.proxyUrl, `/reset_prefix_cache?role=${role}&only_free=true`, {});
};

export function folder(): string {
  return mkdtempSync(path.join(tmpdir(), 'vllm-pd-promise-'));
}

export const options = (mode: 'uni' | 'bi', kvStore: KvStoreOptions, over: EngineOptions = {}) => ({
  engine: { ...over, kvStore, kvTransfer: { mode, ...over.kvTransfer } },
});
