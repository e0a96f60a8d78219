// Admission: who waits for blocks, for a running slot, or for KV from a peer, and who goes next.
import type { SchedulerConfig } from '../config.js';
import type { KVConnectorScheduler, PullOutcome } from '../kv-transfer/connector.js';
import type { Request } from '../request.js';
import type { BlockHasher } from './block-hash.js';
import type { KVCacheBlock } from './free-block-queue.js';
import type { KVCacheManager } from './kv-cache-manager.js';
import type { PrefillTracker } from './prefill-tracker.js';
import { PriorityRequestQueue } from './priority-request-queue.js';
import { type EndedLoad, RemoteLoads } from './remote-loads.js';
import { RequestQueue, type WaitingQueue } from './request-queue.js';
import type { RunningRequests } from './running-requests.js';
import type { SchedulerPrefixCacheStats } from './scheduler-stats.js';
import type { StepPlan } from './step-plan.js';

export interface AdmissionParts {
  readonly maxNumSeqs: SchedulerConfig['maxNumSeqs'];
  readonly policy?: SchedulerConfig['policy'];
  readonly kvCache: KVCacheManager;
  readonly hasher: BlockHasher;
  readonly prefills: PrefillTracker;
  readonly connector: KVConnectorScheduler | null;
}

/** What a waiting request could begin with. */
interface Start {
  readonly hit: readonly KVCacheBlock[];
  readonly numLocalTokens: number;
  readonly numExternalTokens: number;
}

/** Nothing is looked up where every token has to run. */
const fromTheBeginning: Start = { hit: [], numLocalTokens: 0, numExternalTokens: 0 };

//      ┌──► lookups (WAITING_FOR_REMOTE_KVS, without blocks) ──► waiting again, each step
//      │
//   waiting ──────────────────────────────────────────────────────────────► running
//      └──► loads (WAITING_FOR_REMOTE_KVS) ──► ended ──► loaded ──────────────┘
export class Admission {
  readonly #parts: AdmissionParts;
  readonly #waiting: WaitingQueue;
  readonly #loads: RemoteLoads;
  /** Those of whom the connector does not know yet what could be loaded. They hold nothing. */
  readonly #lookups = new Set<Request>();
  #ended: EndedLoad[] = [];
  /** Loaded and ready to run. They hold blocks and cannot be preempted, so they go before all that wait. */
  #loaded: Request[] = [];
  /** Requests that once had blocks here. */
  readonly #admitted = new WeakSet<Request>();
  #prefixCacheStats: SchedulerPrefixCacheStats = { queries: 0, hits: 0, externalQueries: 0, externalHits: 0 };

  constructor(parts: AdmissionParts) {
    this.#parts = parts;
    this.#waiting = parts.policy === 'priority' ? new PriorityRequestQueue() : new RequestQueue();
    this.#loads = new RemoteLoads(parts.kvCache.blockSize);
  }

  get prefixCacheStats(): SchedulerPrefixCacheStats {
    return this.#prefixCacheStats;
  }

  /** Requests that could run if there were room. */
  get numReady(): number {
    return this.#waiting.size + this.#loaded.length;
  }

  /** Loads that ended and whose requests were not promoted yet. */
  get numEndedLoads(): number {
    return this.#ended.length;
  }

  /** Loads under way, those of aborted requests too. */
  get numLoads(): number {
    return this.#loads.size;
  }

  get numWaitingForRemoteKvs(): number {
    return this.#loads.requests().length + this.#lookups.size;
  }

  append(request: Request): void {
    this.#waiting.append(request);
  }

  /** A preempted request goes before all that wait without blocks. */
  prepend(request: Request): void {
    this.#waiting.prepend(request);
  }

  /** The request ends. A load under way stays known, since it goes on. */
  remove(request: Request): void {
    this.#waiting.remove(request);
    this.#lookups.delete(request);
    this.#loaded = this.#loaded.filter((candidate) => candidate !== request);
    this.#ended = this.#ended.filter((load) => load.request !== request);
  }

  /** True if the request has or had blocks here. */
  wasAdmitted(request: Request): boolean {
    return this.#admitted.has(request);
  }

  isLoading(request: Request): boolean {
    return this.#loads.has(request);
  }

  isLoadingId(requestId: string): boolean {
    return this.#loads.hasId(requestId);
  }

  // -------------------------------------------------------------------------------------------- loads

  /** Blocks whose contents did not arrive; reported no later than the end of their load. */
  markInvalid(blockIds: readonly number[]): void {
    this.#loads.markInvalid(blockIds);
  }

  /** The request becomes ready at the next `promoteLoaded`. Null when no load of that id was under way. */
  endLoad(outcome: PullOutcome): EndedLoad | null {
    const ended = this.#loads.end(outcome, (request) => this.#parts.kvCache.getBlockIds(request));
    if (ended && !ended.request.isFinished) {
      this.#ended.push(ended);
      this.#parts.prefills.loadEnded(ended.request, ended.outcome, ended.numArrivedTokens);
    }
    return ended;
  }

  promoteLoaded(): void {
    const ended = this.#ended;
    this.#ended = [];
    for (const { request, numLocalTokens, numArrivedTokens } of ended) {
      const numReadyTokens = numLocalTokens + numArrivedTokens;
      // Without one token to run there are no logits. Its block is written once more, so it is not named before that.
      request.numComputedTokens = Math.min(numReadyTokens, request.numTokens - 1);
      this.#parts.kvCache.cacheBlocks(request, request.numComputedTokens);
      request.status = 'WAITING';
      this.#loaded.push(request);
    }
  }

  /** Asks again about those that were not known; in the order in which they came, before all others. */
  promoteLookedUp(): void {
    const lookups = [...this.#lookups];
    // One by one, as cache queries are.
    for (const request of lookups) this.#lookups.delete(request);
    for (const request of lookups.reverse()) {
      request.status = 'WAITING';
      this.#waiting.prepend(request);
    }
  }

  // -------------------------------------------------------------------------------------------- admitting

  /** Moves requests into `running`, in the order of the queue, until one does not fit. */
  admit(plan: StepPlan, running: RunningRequests): void {
    if (!this.#admitLoaded(plan, running) || this.#waiting.size === 0) return;
    let numReservedBlocks = this.#countReservedBlocks(running);
    for (let request = this.#waiting.head; request; request = this.#waiting.head) {
      const hasRoom = this.#hasRoom(plan, running);
      if (!hasRoom && !this.#parts.connector) return;
      const start = this.#findStart(request);
      if (!start) {
        this.#waiting.remove(request);
        request.status = 'WAITING_FOR_REMOTE_KVS';
        this.#lookups.add(request);
        continue;
      }
      // A load takes neither budget nor a running slot.
      if (!hasRoom && start.numExternalTokens === 0) return;
      if (!this.#begin(plan, running, request, start, numReservedBlocks)) return;
      numReservedBlocks += this.#parts.kvCache.numMissingBlocks(request);
    }
  }

  /** False if one does not fit: then nobody else may take blocks, since it holds some while it waits. */
  #admitLoaded(plan: StepPlan, running: RunningRequests): boolean {
    for (let request = this.#loaded[0]; request; request = this.#loaded[0]) {
      if (!this.#hasRoom(plan, running)) return false;
      const numNewTokens = plan.share(request, request.numComputedTokens);
      const blockIds = this.#parts.kvCache.allocateSlots(request, numNewTokens);
      if (!blockIds) return false;
      this.#loaded.shift();
      running.start(plan, request, numNewTokens, blockIds);
    }
    return true;
  }

  #hasRoom(plan: StepPlan, running: RunningRequests): boolean {
    return plan.hasBudget && running.size < this.#parts.maxNumSeqs;
  }

  /** Blocks that requests begun before need to get through what they have: without these, parked ones could deadlock. */
  #countReservedBlocks(running: RunningRequests): number {
    let numBlocks = 0;
    for (const request of running) numBlocks += this.#parts.kvCache.numMissingBlocks(request);
    for (const request of this.#loads.requests()) numBlocks += this.#parts.kvCache.numMissingBlocks(request);
    return numBlocks;
  }

  /** Null when it is not known yet what could be loaded. */
  #findStart(request: Request): Start | null {
    if (request.needsPromptLogprobs) return fromTheBeginning;
    const { kvCache, connector } = this.#parts;
    const hit = kvCache.getComputedBlocks(request);
    const numLocalTokens = hit.length * kvCache.blockSize;
    const numExternalTokens = connector ? connector.getNumNewMatchedTokens(request, numLocalTokens) : 0;
    return numExternalTokens === null ? null : { hit, numLocalTokens, numExternalTokens };
  }

  /** False, and no effect, if the request does not fit now. */
  #begin(
    plan: StepPlan,
    running: RunningRequests,
    request: Request,
    start: Start,
    numReservedBlocks: number,
  ): boolean {
    const { hit, numLocalTokens, numExternalTokens } = start;
    const isLoad = numExternalTokens > 0;
    const numNewTokens = isLoad ? 0 : plan.share(request, numLocalTokens);
    // Asked before the allocation, which may evict what it asks about.
    const endsInCachedBlock = this.#endsInCachedBlock(request);
    const needs = { hit, numExternalTokens, numReservedBlocks };
    const blockIds = this.#parts.kvCache.admit(request, numNewTokens, needs);
    if (!blockIds) return false;
    this.#waiting.remove(request);
    request.numComputedTokens = numLocalTokens;
    if (!this.#admitted.has(request)) this.#recordFirst(request, start, endsInCachedBlock, blockIds);
    if (isLoad) {
      request.status = 'WAITING_FOR_REMOTE_KVS';
      this.#loads.begin({ request, numLocalTokens, numExternalTokens });
    } else {
      running.start(plan, request, numNewTokens, blockIds);
    }
    return true;
  }

  /** Once a request: the ledger, the statistics and the peer that holds blocks for it hear of its first admission only. */
  #recordFirst(
    request: Request,
    { numLocalTokens, numExternalTokens }: Start,
    endsInCachedBlock: boolean,
    blockIds: readonly number[],
  ): void {
    const { connector, hasher, prefills } = this.#parts;
    this.#admitted.add(request);
    const numRemoteTokens = connector?.getNumRemoteTokens(request) ?? null;
    const pullEstimate = connector?.getPullEstimate?.(request) ?? null;
    const facts = { numLocalTokens, numExternalTokens, numRemoteTokens, endsInCachedBlock, pullEstimate };
    prefills.admitted(request, facts);
    if (!request.needsPromptLogprobs) this.#countQuery(request, numLocalTokens, numExternalTokens);
    if (!connector) return;
    const hashes = hasher.prefixHashes(request, numLocalTokens + numExternalTokens);
    connector.updateStateAfterAlloc(request, blockIds, numLocalTokens, numExternalTokens, hashes);
  }

  #countQuery({ numPromptTokens }: Request, numLocalTokens: number, numExternalTokens: number): void {
    const stats = this.#prefixCacheStats;
    this.#prefixCacheStats = {
      queries: stats.queries + numPromptTokens,
      hits: stats.hits + numLocalTokens,
      externalQueries: stats.externalQueries + (this.#parts.connector ? numPromptTokens - numLocalTokens : 0),
      externalHits: stats.externalHits + numExternalTokens,
    };
  }

  #endsInCachedBlock({ numPromptTokens, blockHashes }: Request): boolean {
    const { kvCache } = this.#parts;
    const numBlocks = numPromptTokens / kvCache.blockSize;
    return Number.isInteger(numBlocks) && kvCache.isCached(blockHashes[numBlocks - 1]!);
  }
}
