// Thousands of seeded random events on a small P and D: blocks are counted after every step, KV is checked at every read,
// every request ends exactly once, and nothing is left behind.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KvLookup, KvTransferMode } from '../../src/config.js';
import { remoteDecodeParams } from '../../src/kv-transfer/params.js';
import type { EngineCoreOutput } from '../../src/outputs.js';
import { type KvTransferParams, ledgerBins } from '../../src/wire.js';
import { PdPair } from './pd-pair.js';
import { type TestNode, type TestRequest, tokens } from './test-node.js';

/** mulberry32 */
function createRandom(seed: number) {
  let state = seed;
  const next = () => {
    state = (state + 0x6d2b_79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    below: (end: number) => Math.floor(next() * end),
    chance: (probability: number) => next() < probability,
  };
}

type OnEnd = (last: EngineCoreOutput) => void;

class Traffic {
  readonly #pair: PdPair;
  readonly #random: ReturnType<typeof createRandom>;
  /** Request id → where it is and what follows its end. */
  readonly #open = new Map<string, { readonly node: TestNode; readonly onEnd: OnEnd }>();
  readonly #histories: { readonly tokenIds: number[]; ticket: KvTransferParams | null }[] = [];
  #numRequests = 0;
  #numTurns = 0;
  readonly leases: string[] = [];

  constructor(pair: PdPair, random: ReturnType<typeof createRandom>) {
    this.#pair = pair;
    this.#random = random;
  }

  get numOpen(): number {
    return this.#open.size;
  }

  get numTurns(): number {
    return this.#numTurns;
  }

  /** Of a new conversation, or one that is known; now and then with its last words changed. */
  beginTurn(): void {
    const { below, chance } = this.#random;
    const known = chance(0.7) ? this.#histories[below(this.#histories.length)] : undefined;
    if (known && chance(0.1)) known.tokenIds.splice(-1 - below(20));
    const promptTokenIds = [...(known?.tokenIds ?? []), ...tokens(`user ${below(6)}`, 1 + below(60))];
    if (promptTokenIds.length > 250) return;
    const options = { promptTokenIds, sessionId: chance(0.8) ? `${promptTokenIds[0]}` : null };
    const ticket = known?.ticket;
    if (known) known.ticket = null;
    if (chance(0.1)) this.#decode(options);
    else if (ticket) this.#prefill({ ...options, kvTransferParams: ticket });
    else if (this.#pair.mode === 'uni' || chance(0.1)) this.#prefill(options);
    else this.#query(options);
  }

  #query(options: TestRequest): void {
    this.#send(this.#pair.d, { ...options, cacheQuery: { lease: true } }, (last) => {
      const lease = last.cacheQueryAnswer?.lease;
      if (lease) this.leases.push(lease.id);
      if (last.cacheQueryAnswer) {
        this.#prefill({ ...options, kvTransferParams: last.kvTransferParams ?? remoteDecodeParams(true) });
      }
    });
  }

  #prefill(options: TestRequest): void {
    const kvTransferParams = options.kvTransferParams ?? remoteDecodeParams();
    this.#send(this.#pair.p, { ...options, kvTransferParams, maxTokens: 1 }, (last) => {
      if (last.kvTransferParams && this.#random.chance(0.95)) {
        this.#decode({ ...options, kvTransferParams: last.kvTransferParams });
      }
    });
  }

  #decode(options: TestRequest): void {
    const request = this.#send(
      this.#pair.d,
      { ...options, maxTokens: 1 + this.#random.below(60) },
      (last) => {
        if (last.finished !== 'FINISHED_LENGTH_CAPPED') return;
        const ledger = last.prefillStats!.ledger;
        assert.is(
          ledgerBins.reduce((sum, bin) => sum + ledger[bin], 0),
          request.numPromptTokens,
        );
        this.#numTurns += 1;
        this.#histories.push({ tokenIds: [...request.tokenIds], ticket: last.kvTransferParams });
        if (this.#histories.length > 8) this.#histories.shift();
      },
    );
  }

  #send(node: TestNode, options: TestRequest, onEnd: OnEnd) {
    this.#numRequests += 1;
    const requestId = `r${this.#numRequests}`;
    this.#open.set(requestId, { node, onEnd });
    return node.add({ ...options, requestId });
  }

  abortOne(): void {
    const ids = [...this.#open.keys()];
    const requestId = ids[this.#random.below(ids.length)];
    if (requestId === undefined) return;
    const last = this.#open.get(requestId)!.node.scheduler.abortRequest(requestId);
    // Null: it was answered in the step under way, and its output is about to come.
    if (last) this.#open.delete(requestId);
  }

  step(node: TestNode, during: () => void): void {
    this.digest(node.step(during).outputs);
  }

  digest(outputs: readonly EngineCoreOutput[]): void {
    for (const output of outputs) {
      if (!output.finished) continue;
      const open = this.#open.get(output.requestId);
      assert.ok(open, `${output.requestId} ended twice`);
      this.#open.delete(output.requestId);
      open.onEnd(output);
    }
  }
}

function play(seed: number, mode: KvTransferMode, lookup: KvLookup): Traffic {
  const random = createRandom(seed);
  const { below, chance } = random;
  const small = { scheduler: { maxNumSeqs: 4, maxNumBatchedTokens: 96, maxModelLen: 400 } };
  const pair = new PdPair(mode, {
    transfer: { lookup, kvRecomputeThreshold: 20, kvLeaseDurationMs: 40, decoderKvBlocksTtlMs: 60 },
    p: { ...small, cache: { numBlocks: 31 } },
    d: { ...small, cache: { numBlocks: 33 } },
  });
  const nodes = [pair.p, pair.d];
  const traffic = new Traffic(pair, random);
  const event = () => {
    const node = nodes[below(2)]!;
    const kind = below(100);
    if (kind < 12 && traffic.numOpen < 12) traffic.beginTurn();
    else if (kind < 14) traffic.abortOne();
    else if (kind < 17) node.holdsLoads = chance(0.5);
    else if (kind < 19) node.isReachable = chance(0.8);
    else if (kind < 22) for (const each of nodes) each.nowMs += below(15);
    else if (kind < 23) node.scheduler.resetPrefixCache({ onlyFree: true });
    else if (kind < 24) pair.d.scheduler.releaseLease(traffic.leases.pop() ?? 'none');
    else return false;
    return true;
  };
  for (let i = 0; i < 4000; i += 1) {
    // Events also happen while a step is under way.
    if (!event()) traffic.step(nodes[below(2)]!, () => void (chance(0.1) && event()));
  }
  for (const node of nodes) {
    node.holdsLoads = false;
    node.isReachable = true;
  }
  for (let i = 0; traffic.numOpen > 0; i += 1) {
    assert.ok(i < 1000, `${traffic.numOpen} requests never end`);
    for (const node of nodes) {
      node.nowMs += 10;
      traffic.digest(node.run());
    }
  }
  for (const node of nodes) node.nowMs += 100;
  pair.assertEmpty();
  return traffic;
}

const settings = [
  ['uni', 'query'],
  ['bi', 'query'],
  ['bi', 'ticket'],
] as const;

for (const [mode, lookup] of settings) {
  for (let seed = 1; seed <= 4; seed += 1) {
    test(`random events keep every block accounted for (${mode}, ${lookup}, seed ${seed})`, () => {
      const traffic = play(seed, mode, lookup);
      assert.ok(traffic.numTurns > 25, `only ${traffic.numTurns} turns were completed`);
    });
  }
}

test.run();
