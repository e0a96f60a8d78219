// One conversation as it is being played in one mode: its history grows by the server's real answers.
import type { KvTransferMode } from '../config.js';
import { messageOf } from '../errors.js';
import type { BenchClient, ChatMessage } from './client.js';
import type { Conversation } from './conversation.js';
import { failedTurn, type History, recordTurn, type TurnIdentity, type TurnRecord } from './turn-record.js';
import type { WorkloadSampling } from './workload.js';

export interface SessionContext {
  readonly client: BenchClient;
  readonly mode: KvTransferMode;
  readonly model: string;
  readonly sampling: WorkloadSampling;
  readonly warmup: boolean;
  /** `performance.now()` when the run began. */
  readonly runStartedAt: number;
}

export class ChatSession {
  readonly #context: SessionContext;
  readonly #conversation: Conversation;
  readonly #messages: ChatMessage[] = [];
  #history: History | null = null;
  #failed = false;
  /** `performance.now()` when the latest answer was complete. */
  #answeredAt = 0;
  /** Token ids of the first prompt, to tell conversations that begin alike. */
  #firstPrompt: readonly number[] = [];

  constructor(context: SessionContext, conversation: Conversation) {
    this.#context = context;
    this.#conversation = conversation;
  }

  get firstPrompt(): readonly number[] {
    return this.#firstPrompt;
  }

  /** True while turn `turn` (from 1) exists and every one before it was answered. */
  canPlay(turn: number): boolean {
    return !this.#failed && turn <= this.#conversation.turns.length;
  }

  /** `performance.now()` before which turn `turn` is not to be sent, for the time that its user thinks. */
  thinksUntil(turn: number): number {
    const delayMs = this.#conversation.turns[turn - 1]!.delayMs ?? 0;
    return turn === 1 || delayMs === 0 ? 0 : this.#answeredAt + delayMs;
  }

  /**
   * Never rejects: a turn that fails is recorded with its error and ends the conversation. `dueAt`: by
   * `performance.now()`, when it was to be sent; null = there was no plan.
   */
  async play(turn: number, dueAt: number | null = null): Promise<TurnRecord> {
    const { mode, warmup, runStartedAt } = this.#context;
    const { id: conversationId, turns } = this.#conversation;
    const { messages, numOutputTokens } = turns[turn - 1]!;
    const startTimeMs = performance.now() - runStartedAt;
    const plannedStartMs = dueAt === null ? null : dueAt - runStartedAt;
    const identity: TurnIdentity = { mode, conversationId, turn, warmup, startTimeMs, plannedStartMs };
    this.#messages.push(...messages);
    try {
      const answer = await this.#ask(conversationId, this.#messages, numOutputTokens);
      this.#answeredAt = performance.now();
      const record = recordTurn(identity, answer, this.#history);
      this.#failed = record.error !== null;
      this.#messages.push({ role: 'assistant', content: answer.text });
      this.#history = {
        promptTokenIds: answer.promptTokenIds ?? [],
        outputTokenIds: answer.outputTokenIds,
      };
      if (turn === 1) this.#firstPrompt = this.#history.promptTokenIds;
      return record;
    } catch (error) {
      this.#failed = true;
      return failedTurn(identity, messageOf(error));
    }
  }

  /**
   * Time to first token, in ms, of the turn just played with its message in other words: all that the conversation had
   * before is cached, and as much is new. One token, so that the decode node has no part in it. Null when there is no such
   * turn, or the cache had lost some of it.
   */
  async fullHitTtft(): Promise<number | null> {
    const asked = this.#messages.slice(0, -1);
    const last = asked.pop();
    const content = last && inOtherWords(last.content);
    if (this.#failed || asked.length === 0 || !content || content === last.content) return null;
    try {
      const answer = await this.#ask(null, [...asked, { role: 'user', content }], 1);
      const ledger = answer.prefillStats?.ledger;
      if (!ledger || ledger.local_hit === 0 || ledger.evicted > 0) return null;
      return Math.round(answer.ttftMs * 1000) / 1000;
    } catch {
      return null;
    }
  }

  #ask(conversationId: string | null, messages: readonly ChatMessage[], numOutputTokens: number) {
    const { client, model, sampling } = this.#context;
    return client.chat({
      model,
      conversationId,
      messages,
      numOutputTokens,
      temperature: sampling.temperature,
      topP: sampling.top_p,
      topK: sampling.top_k,
      seed: sampling.seed,
    });
  }
}

/** The same words from back to front. */
function inOtherWords(text: string): string {
  const [, begin, words] = /^(\s*)(.*)$/s.exec(text)!;
  return begin + words!.split(' ').reverse().join(' ');
}
