// Requests that wait for their first or their freed blocks, by priority; equal ones in the order they came.
import type { Request } from '../request.js';
import type { WaitingQueue } from './request-queue.js';

/** Lower values first, then who came first, then by id, as vLLM. */
export function byPriority(a: Request, b: Request): number {
  return (
    a.priority - b.priority ||
    a.arrivalTimeMs - b.arrivalTimeMs ||
    (a.requestId < b.requestId ? -1 : a.requestId > b.requestId ? 1 : 0)
  );
}

/** Sorted; inserting moves at most as many entries as may wait. A preempted request goes where its priority puts it. */
export class PriorityRequestQueue implements WaitingQueue {
  /** The next one last. */
  readonly #requests: Request[] = [];

  get size(): number {
    return this.#requests.length;
  }

  get head(): Request | null {
    return this.#requests.at(-1) ?? null;
  }

  append(request: Request): void {
    let low = 0;
    let high = this.#requests.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (byPriority(this.#requests[middle]!, request) > 0) low = middle + 1;
      else high = middle;
    }
    this.#requests.splice(low, 0, request);
  }

  prepend(request: Request): void {
    this.append(request);
  }

  remove(request: Request): void {
    const index = this.#requests.indexOf(request);
    if (index >= 0) this.#requests.splice(index, 1);
  }
}
