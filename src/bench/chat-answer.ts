// One streamed answer: put together from its chunks, timed as they come.
import { VllmPdError } from '../errors.js';
import type { PrefillStats } from '../wire.js';

export interface ChatAnswer {
  readonly text: string;
  readonly promptTokenIds: readonly number[] | null;
  readonly outputTokenIds: readonly number[];
  readonly numPromptTokens: number;
  readonly numOutputTokens: number;
  readonly prefillStats: PrefillStats | null;
  /** Sent → first non-empty content. */
  readonly ttftMs: number;
  /** Sent → last non-empty content. */
  readonly e2elMs: number;
  /** Between one chunk with content and the next, in ms. */
  readonly itlMs: readonly number[];
}

/** What of a stream's chunk is looked at. */
interface ChatChunk {
  readonly prompt_token_ids?: readonly number[] | null;
  readonly choices?: readonly {
    readonly delta?: { readonly content?: string | null };
    readonly token_ids?: readonly number[] | null;
    readonly prompt_token_ids?: readonly number[] | null;
  }[];
  readonly usage?: { readonly prompt_tokens: number; readonly completion_tokens: number } | null;
  readonly prefill_stats?: PrefillStats | null;
  readonly error?: { readonly message?: string };
}

/** `sentAt`: `performance.now()` when the request was sent. */
export class AnswerCollector {
  readonly #sentAt: number;
  #text = '';
  #firstAt: number | null = null;
  #lastAt = 0;
  readonly #itlMs: number[] = [];
  #promptTokenIds: readonly number[] | null = null;
  #prefillStats: PrefillStats | null = null;
  #usage: ChatChunk['usage'] = null;
  #done = false;
  readonly #outputTokenIds: number[] = [];

  constructor(sentAt: number) {
    this.#sentAt = sentAt;
  }

  add(data: string): void {
    if (data === '[DONE]') {
      this.#done = true;
      return;
    }
    const chunk = JSON.parse(data) as ChatChunk;
    if (chunk.error)
      throw new VllmPdError('INTERNAL', chunk.error.message ?? 'The stream ended with an error.');
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) {
      const now = performance.now();
      if (this.#firstAt === null) this.#firstAt = now;
      else this.#itlMs.push(now - this.#lastAt);
      this.#lastAt = now;
      this.#text += choice.delta.content;
    }
    this.#promptTokenIds ??= chunk.prompt_token_ids ?? choice?.prompt_token_ids ?? null;
    if (choice?.token_ids) this.#outputTokenIds.push(...choice.token_ids);
    if (chunk.usage) this.#usage = chunk.usage;
    if (chunk.prefill_stats) this.#prefillStats = chunk.prefill_stats;
  }

  answer(url: string): ChatAnswer {
    if (!this.#done) throw new VllmPdError('NODE_UNREACHABLE', `${url} broke off its answer before [DONE].`);
    if (this.#firstAt === null) throw new VllmPdError('INTERNAL', `${url} answered without any content.`);
    if (!this.#usage) throw new VllmPdError('INTERNAL', `${url} sent no usage at the end of its stream.`);
    return {
      text: this.#text,
      promptTokenIds: this.#promptTokenIds,
      outputTokenIds: this.#outputTokenIds,
      numPromptTokens: this.#usage.prompt_tokens,
      numOutputTokens: this.#usage.completion_tokens,
      prefillStats: this.#prefillStats,
      ttftMs: this.#firstAt - this.#sentAt,
      e2elMs: this.#lastAt - this.#sentAt,
      itlMs: this.#itlMs,
    };
  }
}
