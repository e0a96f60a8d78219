// Log probabilities of prompts while they are computed chunk by chunk: each token's, whichever step computed it last.
import type { TokenLogprobs } from '../outputs.js';
import type { Request } from '../request.js';

export class PromptLogprobs {
  readonly #entries = new WeakMap<Request, TokenLogprobs[]>();

  /** What a step says: one entry a token from `position` on. After a preemption the later ones take the others' place. */
  record(request: Request, position: number, entries: readonly TokenLogprobs[]): void {
    const known = this.#entries.get(request) ?? [];
    this.#entries.set(request, known);
    // The first token has none.
    for (const [i, entry] of entries.entries()) known[position - 1 + i] = entry;
  }

  /** Of every token but the first, once. */
  take(request: Request): readonly TokenLogprobs[] {
    const entries = this.#entries.get(request) ?? [];
    this.#entries.delete(request);
    return entries;
  }
}
