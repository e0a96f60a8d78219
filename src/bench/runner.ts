// The order in which turns are played: turn by turn over all conversations, the modes taking turns wave by wave.
import type { KvTransferMode } from '../config.js';
import { VllmPdError } from '../errors.js';
import { createLogger } from '../log.js';
import type { PlannedTurn } from './arrivals.js';
import { ChatSession } from './chat-session.js';
import type { BenchClient } from './client.js';
import type { Conversation } from './conversation.js';
import { listNodes } from './node-probe.js';
import { playOpenLoop, until } from './open-loop.js';
import type { TurnRecord } from './turn-record.js';
import type { WorkloadSampling } from './workload.js';

const log = createLogger('bench');

/** One running system, in the mode that it runs in. */
export interface RunTarget {
  readonly mode: KvTransferMode;
  readonly client: BenchClient;
  readonly model: string;
}

export interface RunPlan {
  readonly targets: readonly RunTarget[];
  readonly conversations: readonly Conversation[];
  readonly sampling: WorkloadSampling;
  /** Conversations whose turns are under way at the same time. */
  readonly numClients: number;
  /** Open loop: when which turns are sent. Null = closed loop, `numClients` turns at a time. */
  readonly arrivals?: readonly PlannedTurn[] | null;
  readonly evictPrefillBetweenTurns: boolean;
  /** Follow-up turns in uni are asked once more while the prefill node has their history: `full_hit_ttft_ms`. */
  readonly asksFullHits?: boolean;
  /** Conversations before all others, so that every node has played one; default 1. */
  readonly numWarmups?: number;
  /** Turns per mode at most; null = all. */
  readonly limit: number | null;
  readonly signal: AbortSignal;
  readonly onTurn?: (record: TurnRecord) => void;
}

export interface RunResult {
  /** In the order in which they ended. */
  readonly turns: readonly TurnRecord[];
  /** False when the run was interrupted or broke off. */
  readonly complete: boolean;
  /** What broke it off; null also after an interrupt. */
  readonly failure: unknown;
  /** Token ids of every conversation's first prompt, of the first mode. */
  readonly firstPrompts: ReadonlyMap<string, readonly number[]>;
}

/** Turns of one mode that a run will play. */
export function countTurns(conversations: readonly Conversation[], limit: number | null): number {
  const total = conversations.reduce((sum, { turns }) => sum + turns.length, 0);
  return limit === null ? total : Math.min(limit, total);
}

const maxEvictAttempts = 50;
const evictRetryMs = 100;

async function emptiedPrefillCache(client: BenchClient): Promise<boolean> {
  await client.resetPrefillCache();
  const nodes = await listNodes(client);
  return nodes.every(({ role, state }) => role !== 'prefill' || state?.numCachedBlocks === 0);
}

/** Two turns, so that in mode bi the second one pulls: the first pull of a process connects to its peer. */
const warmupConversation: Conversation = {
  id: 'WARMUP',
  turns: [
    {
      messages: [{ role: 'user', content: ' warm up with a prompt of a few blocks' }],
      numOutputTokens: 96,
    },
    { messages: [{ role: 'user', content: ' and once more' }], numOutputTokens: 4 },
  ],
};

/**
 * Plays every conversation in every mode. All conversations' first turns come first, then all second turns and so on,
 * so that between two turns of one conversation the nodes have served all the others. A wave of `numClients` turns
 * is played in one mode and then in the other; which goes first alternates. In an open loop one mode is played to its
 * end before the other begins, since load is what is measured. Failed turns are recorded, not thrown.
 */
export async function playConversations(plan: RunPlan): Promise<RunResult> {
  const run = new Run(plan);
  try {
    await run.warmUp();
    await (plan.arrivals ? run.playOpenLoop(plan.arrivals) : run.play());
    return run.result(null);
  } catch (failure) {
    return run.result(failure);
  }
}

class Run {
  readonly #plan: RunPlan;
  readonly #startedAt = performance.now();
  readonly #turns: TurnRecord[] = [];
  /** Of each target, one session a conversation, in the order of the conversations. */
  readonly #sessions: ReadonlyMap<RunTarget, readonly ChatSession[]>;

  constructor(plan: RunPlan) {
    this.#plan = plan;
    this.#sessions = new Map(
      plan.targets.map((target) => [
        target,
        plan.conversations.map((conversation) => this.#session(target, conversation, false)),
      ]),
    );
  }

  /** The first requests of a process pay for connections and compilation; they are kept apart. */
  async warmUp(): Promise<void> {
    const { targets, numWarmups = 1 } = this.#plan;
    for (const target of targets) {
      for (let i = 1; i <= numWarmups; i++) await this.#warmUpOnce(target, i);
    }
  }

  async #warmUpOnce(target: RunTarget, number: number): Promise<void> {
    const { id } = warmupConversation;
    const conversation = { ...warmupConversation, id: number === 1 ? id : `${id}-${number}` };
    const session = this.#session(target, conversation, true);
    for (let turn = 1; session.canPlay(turn); turn++) {
      const record = await session.play(turn);
      if (this.#plan.signal.aborted) return;
      this.#turns.push(record);
    }
  }

  async playOpenLoop(arrivals: readonly PlannedTurn[]): Promise<void> {
    const { targets, signal } = this.#plan;
    for (const target of targets) {
      await playOpenLoop(arrivals, this.#sessions.get(target)!, {
        signal,
        onTurn: (record) => this.#keep(record),
      });
    }
  }

  async play(): Promise<void> {
    const { targets, conversations, numClients, evictPrefillBetweenTurns, limit, signal } = this.#plan;
    const numTurns = Math.max(0, ...conversations.map(({ turns }) => turns.length));
    let numLeft = countTurns(conversations, limit);
    let numWaves = 0;
    for (let turn = 1; turn <= numTurns && numLeft > 0; turn++) {
      if (turn > 1 && evictPrefillBetweenTurns) await this.#evictPrefill();
      const due = conversations
        .flatMap(({ turns }, i) => (turn <= turns.length ? [i] : []))
        .slice(0, numLeft);
      numLeft -= due.length;
      for (let at = 0; at < due.length; at += numClients) {
        const wave = due.slice(at, at + numClients);
        for (const target of numWaves++ % 2 === 0 ? targets : targets.toReversed()) {
          if (signal.aborted) return;
          const played = await this.#playWave(target, wave, turn);
          if (this.#plan.asksFullHits && target.mode === 'uni' && turn > 1) await this.#askFullHits(played);
        }
      }
    }
  }

  result(failure: unknown): RunResult {
    const { targets, conversations, signal } = this.#plan;
    const sessions = this.#sessions.get(targets[0]!)!;
    return {
      turns: this.#turns,
      complete: !signal.aborted && failure === null,
      failure: signal.aborted ? null : failure,
      firstPrompts: new Map(conversations.map(({ id }, i) => [id, sessions[i]!.firstPrompt])),
    };
  }

  /** The records of the turns that were not cut off, as they are in `#turns`, by session. */
  async #playWave(
    target: RunTarget,
    wave: readonly number[],
    turn: number,
  ): Promise<Map<ChatSession, TurnRecord>> {
    const sessions = wave.map((i) => this.#sessions.get(target)![i]!).filter((one) => one.canPlay(turn));
    const played = new Map<ChatSession, TurnRecord>();
    await Promise.all(
      sessions.map(async (session) => {
        await until(session.thinksUntil(turn), this.#plan.signal);
        if (this.#plan.signal.aborted) return;
        const record = await session.play(turn);
        // What an interrupt cut off says nothing about the turn.
        if (this.#plan.signal.aborted) return;
        this.#keep(record);
        played.set(session, record);
      }),
    );
    return played;
  }

  #keep(record: TurnRecord): void {
    this.#turns.push(record);
    const { mode, conversation_id, turn, ttft_ms, error } = record;
    log.debug({ mode, conversation_id, turn, ttft_ms, error }, 'turn played');
    this.#plan.onTurn?.(record);
  }

  /** As many at the same time as the turns were. */
  async #askFullHits(played: ReadonlyMap<ChatSession, TurnRecord>): Promise<void> {
    await Promise.all(
      Array.from(played, async ([session, record]) => {
        const ttftMs = await session.fullHitTtft();
        this.#turns[this.#turns.indexOf(record)] = { ...record, full_hit_ttft_ms: ttftMs };
      }),
    );
  }

  /** Blocks that are being handed over cannot be dropped: asks again until none is cached any more. */
  async #evictPrefill(): Promise<void> {
    for (const { client, mode } of this.#plan.targets) {
      for (let attempt = 0; !(await emptiedPrefillCache(client)); attempt++) {
        if (this.#plan.signal.aborted) return;
        if (attempt === maxEvictAttempts) {
          throw new VllmPdError(
            'CHECK_FAILED',
            `The prefill node (${mode}) still had cached blocks in use ${(maxEvictAttempts * evictRetryMs) / 1000} s ` +
              'after the last turn, so they could not be evicted.',
          );
        }
        await new Promise((resolve) => setTimeout(resolve, evictRetryMs));
      }
    }
  }

  #session(target: RunTarget, conversation: Conversation, warmup: boolean): ChatSession {
    const { client, mode, model } = target;
    const { sampling } = this.#plan;
    return new ChatSession(
      { client, mode, model, sampling, warmup, runStartedAt: this.#startedAt },
      conversation,
    );
  }
}
