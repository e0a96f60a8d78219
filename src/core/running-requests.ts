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

interface Running {
  readonly request: Request;
  /** Its block table, live. */
  readonly blockIds: readonly number[];
}

export class RunningRequests implements Iterable<Request> {
  readonly #parts: RunningRequestsParts;
  readonly #running: Running[] = [];

  constructor(parts: RunningRequestsParts) {
    this.#parts = parts;
  }

  get size(): number {
    return this.#running.length;
  }

  *[Symbol.iterator](): Generator<Request> {
    for (const { request } of this.#running) yield request;
  }

  /** A request that was waiting runs in this step, and from now on. Without tokens it does from a later step on. */
  start(plan: StepPlan, request: Request, numNewTokens: number, blockIds: readonly number[]): void {
    request.status = 'RUNNING';
    this.#running.push({ request, blockIds });
    if (numNewTokens > 0) plan.add(request, numNewTokens, blockIds);
  }

  /** The request ends. */
  remove(request: Request): void {
    const index = this.#running.findIndex((running) => running.request === request);
    this.#running.splice(index, 1);
  }

  /** Plans their next tokens, as far as the budget goes. */
  schedule(plan: StepPlan): void {
    const { policy, kvCache } = this.#parts;
    // Who is preempted is the last one.
    if (policy === 'priority') this.#running.sort((a, b) => byPriority(a.request, b.request));
    for (let i = 0; i < this.#running.length && plan.hasBudget; i += 1) {
      const { request, blockIds } = this.#running[i]!;
      const numNewTokens = plan.share(request, request.numComputedTokens);
      if (numNewTokens === 0) continue;
      // Mostly the last block has room; then nobody need be asked.
      const isFull = request.numComputedTokens + numNewTokens > blockIds.length * kvCache.blockSize;
      if (isFull && !this.#allocate(plan, request, numNewTokens)) return;
      plan.add(request, numNewTokens, blockIds);
    }
  }

  /** False if the request itself had to give its blocks back. */
  #allocate(plan: StepPlan, request: Request, numNewTokens: number): boolean {
    while (!this.#parts.kvCache.allocateSlots(request, numNewTokens)) {
      if (this.#preemptLast(plan) === request) return false;
    }
    return true;
  }

  /** Recompute style: the victim's blocks are freed, its full ones stay cached, and it starts from a fresh lookup. */
  #preemptLast(plan: StepPlan): Request {
    const { request: victim } = this.#running.pop()!;
    this.#parts.kvCache.free(victim);
    victim.status = 'PREEMPTED';
    victim.numComputedTokens = 0;
    victim.numPreemptions += 1;
    this.#parts.requeue(victim);
    plan.numPreemptions += 1;
    return victim;
  }
}
