// Requests that wait for admission: first come, first served; preempted ones go to the front.
import type { Request } from '../request.js';

/** Who waits without blocks, in the order in which they go. */
export interface WaitingQueue {
  readonly size: number;
  /** The next request; null when empty. */
  readonly head: Request | null;
  append(request: Request): void;
  /** One that was preempted. */
  prepend(request: Request): void;
  remove(request: Request): void;
}

export class RequestQueue implements WaitingQueue {
  /** Preempted requests, the next one last. */
  readonly #front: Request[] = [];
  readonly #back = new Map<string, Request>();

  get size(): number {
    return this.#front.length + this.#back.size;
  }

  /** The next request; null when empty. */
  get head(): Request | null {
    return this.#front.at(-1) ?? this.#back.values().next().value ?? null;
  }

  append(request: Request): void {
    this.#back.set(request.requestId, request);
  }

  prepend(request: Request): void {
    this.#front.push(request);
  }

  remove(request: Request): void {
    if (this.#back.delete(request.requestId)) return;
    const index = this.#front.indexOf(request);
    if (index >= 0) this.#front.splice(index, 1);
  }
}
