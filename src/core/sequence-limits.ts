// How long a sequence may become: what the model takes, and what the pool holds.
import type { CacheConfig, SchedulerConfig } from '../config.js';

export class SequenceLimits {
  readonly #maxModelLen: number;
  readonly #numPoolTokens: number;

  constructor(cache: CacheConfig, scheduler: SchedulerConfig) {
    this.#maxModelLen = scheduler.maxModelLen;
    // The null block holds nobody's tokens.
    this.#numPoolTokens = (cache.numBlocks - 1) * cache.blockSize;
  }

  /** Prompt and answer. */
  get maxTokens(): number {
    return Math.min(this.#maxModelLen, this.#numPoolTokens);
  }

  /** Why a prompt could not run even if it were alone, in a sentence; null if it could. */
  whyNever(numPromptTokens: number): string | null {
    if (numPromptTokens >= this.#maxModelLen) {
      return `Expected a prompt of fewer than ${this.#maxModelLen} tokens (max_model_len) but received ${numPromptTokens}`;
    }
    if (numPromptTokens > this.#numPoolTokens) {
      return `Expected a prompt that fits in the KV cache of ${this.#numPoolTokens} tokens but received ${numPromptTokens}`;
    }
    return null;
  }
}
