// Thousands of turns with faults in between: each must end with the right tokens, or with an error and a retry that does.
import { setTimeout as sleep } from 'node:timers/promises';
import { BenchClient, type ChatMessage } from '../bench/client.js';
import { checkPools } from '../bench/node-probe.js';
import { Random } from '../bench/random.js';
import type { KvLookup, KvTransferMode } from '../config.js';
import type { EngineOptions } from '../engine-options.js';
import { messageOf } from '../errors.js';
import { startCluster } from '../server/cluster.js';
import type { StoreKind } from './chaos-store.js';
import { ChaosSystem } from './chaos-system.js';
import { type FaultKind, isStoreFault, type PlannedFault, planFault } from './fault.js';

export interface SoakOptions {
  /** For the report. */
  readonly name: string;
  /** A resolved model folder included. */
  readonly engine: EngineOptions;
  /** What the undisturbed answers come from; default the same. */
  readonly referenceEngine?: EngineOptions;
  readonly mode: KvTransferMode;
  readonly lookup: KvLookup;
  /** Shared by the nodes; default `none`. */
  readonly store?: StoreKind;
  readonly seed: number;
  readonly numTurns: number;
  /** Conversations whose turns are under way at the same time. */
  readonly numClients: number;
  /** Of so many turns in a row, a fault is armed for one. */
  readonly faultEvery: number;
  readonly kinds: readonly FaultKind[];
  /** In place of random ones: armed in this order, one a turn. */
  readonly faults?: readonly PlannedFault[];
  /** Limit of one attempt at a turn, in ms. */
  readonly timeoutMs: number;
  /** No further turn is begun after so long; null = all are played. */
  readonly timeLimitMs: number | null;
  readonly signal: AbortSignal;
  readonly onTurn?: (numDone: number) => void;
}

export interface SoakReport {
  readonly name: string;
  readonly seed: number;
  readonly mode: KvTransferMode;
  readonly lookup: KvLookup;
  readonly num_turns: number;
  /** Faults that struck, by kind. */
  readonly faults: Readonly<Record<string, number>>;
  readonly num_faults: number;
  /** Attempts that ended with an error the client saw. */
  readonly num_failed_attempts: number;
  /** Turns whose tokens were not those of the undisturbed run, by their names. */
  readonly wrong: readonly string[];
  /** Turns that never succeeded, with their last error. */
  readonly lost: readonly string[];
  /** What was not whole after a round of turns. */
  readonly leaks: readonly string[];
  readonly duration_s: number;
  /** False when it was interrupted or ran out of time. */
  readonly complete: boolean;
}

/** Attempts with no fault at work: a node that starts on a busy machine takes what it takes. */
const maxAttempts = 40;
const retryDelayMs = 150;
const maxTurnsOfConversation = 5;
/** Long enough for a lease or a ticket to expire whose reader has died. */
const settleMs = 15_000;

interface ConversationPlan {
  readonly id: string;
  readonly turns: readonly { readonly content: string; readonly numOutputTokens: number }[];
}

interface Conversation {
  readonly plan: ConversationPlan;
  readonly messages: ChatMessage[];
  /** Played so far. */
  turn: number;
}

export function isClean({ wrong, lost, leaks }: SoakReport): boolean {
  return wrong.length + lost.length + leaks.length === 0;
}

/** Wrong, lost and leaked are reported, not thrown; throws what keeps the system from running. */
export async function soak(options: SoakOptions): Promise<SoakReport> {
  const reference = await startCluster({
    prefill: 0,
    decode: 1,
    engine: options.referenceEngine ?? options.engine,
    signal: options.signal,
  });
  try {
    const system = await ChaosSystem.start(options);
    try {
      return await new Soak(options, system, reference.proxyUrl).run();
    } finally {
      await system.close();
    }
  } finally {
    await reference.close();
  }
}

class Soak {
  readonly #options: SoakOptions;
  readonly #system: ChaosSystem;
  readonly #reference: BenchClient;
  readonly #client: BenchClient;
  readonly #random: Random;
  readonly #faultRandom: Random;
  readonly #startedAt = performance.now();
  readonly #wrong: string[] = [];
  readonly #lost: string[] = [];
  readonly #leaks: string[] = [];
  #model = '';
  #numTurns = 0;
  #numConversations = 0;
  #numFailedAttempts = 0;
  #numChances = 0;
  /** Which one of the next `faultEvery` turns has the fault. */
  #chosenPlace = 0;

  constructor(options: SoakOptions, system: ChaosSystem, referenceUrl: string) {
    this.#options = options;
    this.#system = system;
    this.#random = new Random(options.seed, 'conversations');
    // By name, so that each soak of a run meets others.
    this.#faultRandom = new Random(options.seed, `faults of ${options.name}`);
    const { timeoutMs, signal } = options;
    this.#reference = new BenchClient(referenceUrl, { timeoutMs, signal });
    this.#client = new BenchClient(system.proxyUrl, { timeoutMs, signal });
  }

  async run(): Promise<SoakReport> {
    try {
      this.#model = (await this.#reference.modelIds())[0]!;
      await this.#play();
      if (!this.#options.signal.aborted) await this.#checkWhole('at the end', true);
      return this.#report();
    } finally {
      await this.#client.close();
      await this.#reference.close();
    }
  }

  #goesOn(): boolean {
    const { numTurns, timeLimitMs, signal } = this.#options;
    const isInTime = timeLimitMs === null || performance.now() - this.#startedAt < timeLimitMs;
    return this.#numTurns < numTurns && isInTime && !signal.aborted;
  }

  /** Rounds of one turn of every client's conversation; where one has ended, another begins. */
  async #play(): Promise<void> {
    const { numClients, numTurns } = this.#options;
    const conversations: Conversation[] = Array.from({ length: numClients }, () => this.#begin());
    while (this.#goesOn()) {
      const due = conversations.slice(0, numTurns - this.#numTurns);
      for (const _ of due) this.#maybeArm();
      await Promise.all(due.map((conversation) => this.#playTurn(conversation)));
      for (const [i, { plan, turn }] of due.entries()) {
        if (turn === plan.turns.length) conversations[i] = this.#begin();
      }
      await this.#checkWhole(`after ${this.#numTurns} turns`);
    }
  }

  #begin(): Conversation {
    return { plan: this.#planConversation(), messages: [], turn: 0 };
  }

  #planConversation(): ConversationPlan {
    const random = this.#random;
    this.#numConversations += 1;
    const words = (n: number) =>
      Array.from({ length: n }, () => commonWords[random.integer(0, commonWords.length - 1)]).join(' ');
    return {
      id: `chaos-${this.#options.seed}-${this.#numConversations}`,
      turns: Array.from({ length: random.integer(2, maxTurnsOfConversation) }, () => ({
        content: words(random.integer(2, 25)),
        numOutputTokens: random.integer(2, 60),
      })),
    };
  }

  #maybeArm(): void {
    const { faultEvery, faults, mode, lookup, store = 'none' } = this.#options;
    if (faults) {
      const next = faults[this.#numChances];
      this.#numChances += 1;
      if (next) this.#system.arm(next);
      return;
    }
    const kinds = this.#options.kinds.filter((kind) => store !== 'none' || !isStoreFault(kind));
    const place = this.#numChances % faultEvery;
    this.#numChances += 1;
    if (place === 0) this.#chosenPlace = this.#faultRandom.integer(0, faultEvery - 1);
    if (place !== this.#chosenPlace || kinds.length === 0) return;
    this.#system.arm(planFault(this.#faultRandom, kinds, mode === 'bi' && lookup === 'query'));
  }

  async #playTurn(conversation: Conversation): Promise<void> {
    const { plan, messages } = conversation;
    const { content, numOutputTokens } = plan.turns[conversation.turn]!;
    conversation.turn += 1;
    messages.push({ role: 'user', content });
    const request = {
      model: this.#model,
      conversationId: plan.id,
      messages,
      numOutputTokens,
      temperature: 0,
    };
    const expected = await this.#reference.chat(request);
    const name = `${plan.id} turn ${conversation.turn}`;
    for (let numAttempts = 0; ; ) {
      try {
        const answer = await this.#client.chat(request);
        if (
          answer.outputTokenIds.join() !== expected.outputTokenIds.join() ||
          answer.text !== expected.text
        ) {
          this.#wrong.push(name);
        }
        break;
      } catch (error) {
        if (this.#options.signal.aborted) return;
        this.#numFailedAttempts += 1;
        if (!this.#system.isStricken) numAttempts += 1;
        if (numAttempts === maxAttempts) {
          this.#lost.push(`${name}: ${messageOf(error)}`);
          break;
        }
        await sleep(retryDelayMs);
      }
    }
    messages.push({ role: 'assistant', content: expected.text });
    this.#numTurns += 1;
    this.#options.onTurn?.(this.#numTurns);
  }

  /** Nothing runs now: whatever is still held or loading is lost, but for tickets, which `isOver` waits for. */
  async #checkWhole(when: string, isOver = false): Promise<void> {
    if (this.#options.signal.aborted) return;
    await this.#system.settle();
    const { mode, lookup } = this.#options;
    const maySurvive = mode === 'bi' && !isOver ? lookup : 'query';
    const check = await checkPools(this.#client, mode, maySurvive, settleMs);
    if (!check.ok) this.#leaks.push(`${when}: ${check.detail}`);
    const growths = await this.#growthsLeft();
    if (growths.length > 0) this.#leaks.push(`${when}: ${growths.join('; ')}`);
  }

  /** Connections that a fault has silenced are given up after seconds. */
  async #growthsLeft(): Promise<readonly string[]> {
    const end = performance.now() + settleMs;
    for (;;) {
      const growths = this.#system.growths();
      if (growths.length === 0 || performance.now() > end) return growths;
      await sleep(100);
    }
  }

  #report(): SoakReport {
    const { name, seed, mode, lookup, numTurns } = this.#options;
    const faults = Object.fromEntries([...this.#system.struck].toSorted());
    return {
      name,
      seed,
      mode,
      lookup,
      num_turns: this.#numTurns,
      faults,
      num_faults: Object.values(faults).reduce((sum, n) => sum + n, 0),
      num_failed_attempts: this.#numFailedAttempts,
      wrong: this.#wrong,
      lost: this.#lost,
      leaks: this.#leaks,
      duration_s: Math.round((performance.now() - this.#startedAt) / 100) / 10,
      complete: this.#numTurns >= numTurns,
    };
  }
}

const commonWords =
  'the of and to in is was for that on with as by at from it an are were which this be or has had not but also his their'.split(
    ' ',
  );
