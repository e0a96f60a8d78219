// Requests that wait for admission: first come, first served; preempted ones go to the front.
import type { Request } from '../request.js';

export class RequestQueue {
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
