// Time to first token through the proxy, against asking its prefill node: nodes and proxy in processes of their own.
//
// What is added is all that a client waits for longer: two hops more, P's hand-over, and in bi the cache query to D as well.
// It is what a proxy adds that has served for a while: code that was just loaded takes twice as long, so turns are played
// beforehand. And both begin alike, each behind a turn through the proxy that is not timed: D has computed meanwhile and P
// paused, which costs P's next prefill half a millisecond (caches, threads to be woken) that is none of the proxy's.
import { Pool } from 'undici';
import type { KvTransferMode } from '../config.js';
import { startPeer } from './peer.js';
import type { ProxyPeerAddress } from './proxy-peer.js';
import { promptTokens } from './requests.js';
import type { Contest, RowGroup, RowPlan, Work } from './row-plan.js';

/** Enough for the prompt to count in every body, few enough for P, which has it cached, to answer in a moment. */
const numPromptTokens = 512;
/** Ids that any vocabulary has. */
const vocabSize = 256;
/** Of each kind; behind them the time of a turn falls no more. */
const numWarmUpTurns = 100;

export function proxyGroups(modelPath: string): RowGroup[] {
  const rows = (['uni', 'bi'] as const).map(
    (mode): RowPlan => ({
      name: `TTFT, ${mode}`,
      threads: 1,
      unit: 'first tokens/s',
      limit: 'the node itself',
      asked: { kind: 'added time', atMostMs: 1 },
      prepare: () => prepare(modelPath, mode),
    }),
  );
  return [{ family: 'proxy', rows }];
}

async function prepare(modelPath: string, mode: KvTransferMode): Promise<Contest> {
  const peer = await startPeer<ProxyPeerAddress>({ kind: 'proxy', modelPath, mode });
  const proxy = new FirstTokenClient(peer.address.proxyUrl);
  const node = new FirstTokenClient(peer.address.prefillUrl);
  const clients = [proxy, node];
  const before = async () => {
    for (const client of clients) await client.ended();
    await proxy.firstEvent();
    await proxy.ended();
  };
  const workOf = (client: FirstTokenClient): Work => ({ amount: 1, before, run: () => client.firstEvent() });
  const [subject, limit] = [workOf(proxy), workOf(node)];
  for (let turn = 0; turn < numWarmUpTurns; turn += 1) {
    await limit.run();
    await before();
  }
  return {
    subject,
    limit,
    close: async () => {
      await Promise.all(clients.map((client) => client.close()));
      await peer.close();
    },
  };
}

class FirstTokenClient {
  readonly #pool: Pool;
  readonly #body: string;
  #rest: Promise<void> = Promise.resolve();

  constructor(url: string) {
    this.#pool = new Pool(url, { connections: 1 });
    const prompt = promptTokens(numPromptTokens).map((id) => id % vocabSize);
    this.#body = JSON.stringify({ prompt, max_tokens: 2, ignore_eos: true, temperature: 0, stream: true });
  }

  /** Resolves when the answer under way has been read to its end. */
  ended(): Promise<void> {
    return this.#rest;
  }

  async close(): Promise<void> {
    await this.#rest;
    await this.#pool.destroy();
  }

  /** Asks, and resolves with the answer's first event; what comes behind it is read meanwhile. */
  async firstEvent(): Promise<void> {
    const answer = await this.#pool.request({
      method: 'POST',
      path: '/v1/completions',
      headers: { 'content-type': 'application/json' },
      body: this.#body,
    });
    const events = (answer.body as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
    const first = await events.next();
    const text = first.done ? '' : first.value.toString();
    if (answer.statusCode !== 200 || !text.startsWith('data: {')) {
      throw new Error(`Expected a stream of events but received status ${answer.statusCode}: ${text}`);
    }
    this.#rest = drain(events);
  }
}

async function drain(events: AsyncIterator<Buffer>): Promise<void> {
  for (let next = await events.next(); !next.done; ) next = await events.next();
}
