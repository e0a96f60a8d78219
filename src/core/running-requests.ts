// Requests that get tokens in every step; where blocks run out, the last of them gives its own back.
import type { SchedulerConfig } from '../config.js';
import type { Request } from '../request.js';
import type { KVCacheManager } from './kv-cache-manager.js';
import { byPriority } from './priority-request-queue.js';
import type { StepPlan } from './step-plan.js';

export interface RunningRequestsParts {
  readonly policy: SchedulerConfig['policy'];
  readonly kvCache: KVCacheManager;
  /** Takes a request that was preempted. */
  readonly requeue: (victim: Request) => void;
}

export class RunningRequests implements Iterable<Request> {
  readonly #parts: RunningRequestsParts;
  readonly #requests: Request[] = [];

  constructor(parts: RunningRequestsParts) {
    this.#parts = parts;
  }

  get size(): number {
    return this.#requests.length;
  }

  [Symbol.iterator](): Iterator<Request> {
    return this.#requests.values();
  }

  /** A request that was waiting runs in this step, and from now on. Without tokens it does from a later step on. */
  start(plan: StepPlan, request: Request, numNewTokens: number, blockIds: readonly number[]): void {
    request.status = 'RUNNING';
    this.#requests.push(request);
    if (numNewTokens > 0) plan.add(request, numNewTokens, blockIds);
  }

  /** The request ends. */
  remove(request: Request): void {
    this.#requests.splice(this.#requests.indexOf(request), 1);
  }

  /** Plans their next tokens, as far as the budget goes. */
  schedule(plan: StepPlan): void {
    // Who is preempted is the last one.
    if (this.#parts.policy === 'priority') this.#requests.sort(byPriority);
    for (let i = 0; i < this.#requests.length && plan.hasBudget; i += 1) {
      const request = this.#requests[i]!;
      const numNewTokens = plan.share(request, request.numComputedTokens);
      if (numNewTokens === 0) continue;
      let blockIds = this.#parts.kvCache.allocateSlots(request, numNewTokens);
      while (!blockIds && this.#preemptLast(plan) !== request) {
        blockIds = this.#parts.kvCache.allocateSlots(request, numNewTokens);
      }
      if (!blockIds) return;
      plan.add(request, numNewTokens, blockIds);
    }
  }

  /** Recompute style: the victim's blocks are freed, its full ones stay cached, and it starts from a fresh lookup. */
  #preemptLast(plan: StepPlan): Request {
    const victim = this.#requests.pop()!;
    this.#parts.kvCache.free(victim);
    victim.status = 'PREEMPTED';
    victim.numComputedTokens = 0;
    victim.numPreemptions += 1;
    this.#parts.requeue(victim);
    plan.numPreemptions += 1;
    return victim;
  }
}
