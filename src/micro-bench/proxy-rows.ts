// Time to first token through the proxy, against asking its prefill node: nodes and proxy in processes of their own.
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
  const clients = [peer.address.proxyUrl, peer.address.prefillUrl].map((url) => new FirstTokenClient(url));
  return {
    subject: clients[0]!.work,
    limit: clients[1]!.work,
    close: async () => {
      await Promise.all(clients.map((client) => client.close()));
      await peer.close();
    },
  };
}

/** A round ends with the first event; what comes behind it is read before the next one begins. */
class FirstTokenClient {
  readonly work: Work;
  readonly #pool: Pool;
  readonly #body: string;
  #rest: Promise<void> = Promise.resolve();

  constructor(url: string) {
    this.#pool = new Pool(url, { connections: 1 });
    const prompt = promptTokens(numPromptTokens).map((id) => id % vocabSize);
    this.#body = JSON.stringify({ prompt, max_tokens: 2, ignore_eos: true, temperature: 0, stream: true });
    this.work = { amount: 1, before: () => this.#rest, run: () => this.#firstEvent() };
  }

  async close(): Promise<void> {
    await this.#rest;
    await this.#pool.destroy();
  }

  async #firstEvent(): Promise<void> {
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
