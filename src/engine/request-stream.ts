// The pieces of one answer on their way from the engine's loop to the caller: an async generator that ends with it.
import { mergeOutputs, type RequestOutput } from './request-output.js';

interface Waiting {
  readonly resolve: (result: IteratorResult<RequestOutput, void>) => void;
  readonly reject: (error: unknown) => void;
}

const end: IteratorResult<RequestOutput, void> = { done: true, value: undefined };

/** Holds at most one piece: what the caller has not taken yet is merged. */
export class RequestStream implements AsyncGenerator<RequestOutput, void, void> {
  readonly requestId: string;
  /** Resolves with the first piece, or with the end if there is none. */
  readonly begun: Promise<void>;
  /** What the first token says when a peer has sampled it: known at once, and before all pieces. Null otherwise. */
  firstPiece: RequestOutput | null = null;
  /** As the pieces so far say, those that were taken too. */
  promptLogprobs: RequestOutput['promptLogprobs'] = null;
  #markBegun: () => void = () => {};
  readonly #onAbort: () => void;
  #pending: RequestOutput | null = null;
  #failure: { readonly error: unknown } | null = null;
  #ended = false;
  #waiting: Waiting | null = null;

  /** `onAbort` is called at most once: when the caller leaves before the last piece was pushed. */
  constructor(requestId: string, onAbort: () => void) {
    this.requestId = requestId;
    this.#onAbort = onAbort;
    this.begun = new Promise((resolve) => {
      this.#markBegun = resolve;
    });
  }

  /** From the engine. A piece with a finish reason is the last one. */
  push(output: RequestOutput): void {
    if (this.#ended) return;
    this.#ended = output.finishReason !== null;
    this.promptLogprobs ??= output.promptLogprobs;
    this.#markBegun();
    if (this.#waiting) {
      this.#waiting.resolve({ done: false, value: output });
      this.#waiting = null;
    } else {
      this.#pending = this.#pending ? mergeOutputs(this.#pending, output) : output;
    }
  }

  /** From the engine: `firstPiece` was all. */
  end(): void {
    this.#ended = true;
    this.#markBegun();
  }

  /** From the engine: the request ended without an answer. */
  fail(error: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#markBegun();
    if (this.#waiting) {
      this.#waiting.reject(error);
      this.#waiting = null;
    } else {
      this.#failure = { error };
    }
  }

  async next(): Promise<IteratorResult<RequestOutput, void>> {
    if (this.#pending) {
      const value = this.#pending;
      this.#pending = null;
      return { done: false, value };
    }
    if (this.#failure) {
      const { error } = this.#failure;
      this.#failure = null;
      throw error;
    }
    if (this.#ended) return end;
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }

  /** Aborts the request unless it has ended. */
  async return(): Promise<IteratorResult<RequestOutput, void>> {
    this.#pending = null;
    this.#failure = null;
    if (!this.#ended) {
      this.#ended = true;
      this.#markBegun();
      this.#waiting?.resolve(end);
      this.#waiting = null;
      this.#onAbort();
    }
    return end;
  }

  async throw(error: unknown): Promise<IteratorResult<RequestOutput, void>> {
    await this.return();
    throw error;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }
}
