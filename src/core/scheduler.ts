// The scheduler: what each step runs, and what became of it.
import type { CacheConfig, KvTransferConfig, SchedulerConfig } from '../config.js';
import { VllmPdError } from '../errors.js';
import type { KVConnectorScheduler } from '../kv-transfer/connector.js';
import type {
  EngineCoreOutput,
  KVConnectorOutput,
  ModelRunnerOutput,
  ScheduledRequest,
  SchedulerOutput,
} from '../outputs.js';
import type { FinishedStatus, Request } from '../request.js';
import type { CacheQueryAnswer } from '../wire.js';
import { assertTokenIds, BlockHasher } from './block-hash.js';
import type { BlockTableSink } from './block-table-sink.js';
import { answerCacheQuery } from './cache-query.js';
import type { KVCacheBlock } from './free-block-queue.js';
import { KVCacheManager } from './kv-cache-manager.js';
import { PrefillTracker } from './prefill-tracker.js';
import { type EndedLoad, RemoteLoads } from './remote-loads.js';
import { RequestQueue } from './request-queue.js';
import type { SchedulerPrefixCacheStats, SchedulerState, SchedulerStepStats } from './scheduler-stats.js';
import { StepPlan } from './step-plan.js';
import { checkStop } from './stop.js';

export interface SchedulerInit {
  readonly engineId: string;
  readonly cache: CacheConfig;
  readonly scheduler: SchedulerConfig;
  /** Default 'recompute'. */
  readonly kvLoadFailurePolicy?: KvTransferConfig['kvLoadFailurePolicy'];
  /** Null = an aggregated engine. */
  readonly connector: KVConnectorScheduler | null;
  readonly sink: BlockTableSink;
  /** Milliseconds, monotonic; the same clock as the connector's. */
  readonly clock: () => number;
}

/** What a waiting request could begin with. */
interface Start {
  readonly hit: readonly KVCacheBlock[];
  readonly numLocalTokens: number;
  readonly numExternalTokens: number;
}

/** How a request ends, and what its last output says. */
interface Ending {
  readonly status: FinishedStatus;
  readonly stopReason?: number | string | null;
  readonly error?: string;
}

const ongoing = {
  newTokenIds: [],
  newLogprobs: [],
  finished: null,
  stopReason: null,
  kvTransferParams: null,
  prefillStats: null,
  cacheQueryAnswer: null,
  error: null,
} as const satisfies Omit<EngineCoreOutput, 'requestId'>;

export class Scheduler {
  readonly #init: SchedulerInit;
  readonly #connector: KVConnectorScheduler | null;
  readonly #hasher: BlockHasher;
  readonly #kvCache: KVCacheManager;
  readonly #prefills: PrefillTracker;
  /** Longest sequence that model and pool can take. */
  readonly #maxSequenceTokens: number;

  /** Unfinished, cache queries left out. Each is in exactly one of the four collections below, or in `#endedLoads`. */
  readonly #requests = new Map<string, Request>();
  #running: Request[] = [];
  readonly #waiting = new RequestQueue();
  readonly #loads: RemoteLoads;
  /** Loaded and ready to run. They hold blocks and cannot be preempted, so they go before all that wait. */
  #loaded: Request[] = [];

  #cacheQueries: Request[] = [];
  #endedLoads: EndedLoad[] = [];
  /** Requests that once had blocks here: the connector hears of their end in another way. */
  readonly #admitted = new WeakSet<Request>();
  #stepUnderWay: readonly ScheduledRequest[] = [];
  #finishedRequestIds: string[] = [];
  /** Outputs of requests that ended outside updateFromOutput and whose caller was not told. */
  #pendingOutputs: EngineCoreOutput[] = [];
  /** The last schedule() found nothing to do, and nothing has changed since. */
  #isStuck = false;
  #lastStep = { numScheduledTokens: 0, numPreemptions: 0 };
  #prefixCacheStats: SchedulerPrefixCacheStats = { queries: 0, hits: 0, externalQueries: 0, externalHits: 0 };

  constructor(init: SchedulerInit) {
    this.#init = init;
    this.#connector = init.connector;
    this.#hasher = new BlockHasher(init.cache.blockSize, init.cache.hashSeed);
    this.#kvCache = new KVCacheManager(init.cache, init.sink);
    this.#prefills = new PrefillTracker(this.#hasher);
    this.#loads = new RemoteLoads(init.cache.blockSize);
    this.#maxSequenceTokens = Math.min(init.scheduler.maxModelLen, this.#numPoolTokens);
  }

  // -------------------------------------------------------------------------------------------- requests in and out

  /**
   * Queues a request, or a cache query. Throws INVALID_ARGUMENT, without effect, when the prompt is empty, a token id is
   * not a uint32 or the id is taken. A request that can never run ends FINISHED_IGNORED with a sentence, in the outputs
   * of the next updateFromOutput.
   */
  addRequest(request: Request): void {
    this.#assertNewId(request.requestId);
    assertTokenIds(request.tokenIds);
    if (request.cacheQuery) {
      this.#hasher.extend(request);
      this.#cacheQueries.push(request);
      return;
    }
    if (request.numPromptTokens === 0) {
      throw new VllmPdError('INVALID_ARGUMENT', 'Expected a prompt of at least one token but received none', {
        param: 'prompt',
      });
    }
    this.#isStuck = false;
    this.#requests.set(request.requestId, request);
    this.#waiting.append(request);
    const refusal = this.#whyNever(request);
    if (refusal !== null) {
      this.#pendingOutputs.push(this.#finish(request, { status: 'FINISHED_IGNORED', error: refusal }));
      return;
    }
    this.#hasher.extend(request);
  }

  /** As finishRequest(requestId, 'FINISHED_ABORTED'). */
  abortRequest(requestId: string): EngineCoreOutput | null {
    return this.finishRequest(requestId, 'FINISHED_ABORTED');
  }

  /**
   * Ends a request from outside (abort, stop string), at any time, also while its step runs. Returns its last output
   * (no new tokens; carries kvTransferParams when blocks are held for a peer); null if the request is not known any more.
   */
  finishRequest(
    requestId: string,
    status: FinishedStatus,
    stopReason: number | string | null = null,
  ): EngineCoreOutput | null {
    const query = this.#cacheQueries.find((candidate) => candidate.requestId === requestId);
    if (query) {
      this.#cacheQueries = this.#cacheQueries.filter((candidate) => candidate !== query);
      return { ...ongoing, requestId, finished: status, stopReason };
    }
    const request = this.#requests.get(requestId);
    if (!request) return null;
    // Its tokens of the step under way are not there yet, and nobody will say when they are.
    const running = this.#stepUnderWay.find((scheduled) => scheduled.request === request);
    if (running) request.numComputedTokens = running.numComputedTokens;
    return this.#finish(request, { status, stopReason });
  }

  /** Ends a lease by hand. False if there is none of that id. */
  releaseLease(leaseId: string): boolean {
    const released = this.#connector?.releaseLease(leaseId) ?? false;
    this.#freeEndedHolds();
    return released;
  }

  // -------------------------------------------------------------------------------------------- one step

  /**
   * Plans one step. Cache queries are answered here, with no token scheduled; the answers may be delivered before the
   * step runs. Throws INTERNAL while a step is under way.
   */
  schedule(): SchedulerOutput {
    if (this.#stepUnderWay.length > 0) {
      throw new VllmPdError(
        'INTERNAL',
        'Expected the step under way to be reported before the next one is planned',
      );
    }
    this.#freeEndedHolds();
    const cacheQueryAnswers = this.#answerCacheQueries();
    this.#promoteLoaded();
    const plan = new StepPlan(this.#init.scheduler.maxNumBatchedTokens);
    this.#scheduleRunning(plan);
    if (plan.numPreemptions === 0) this.#admit(plan);
    return this.#close(plan, cacheQueryAnswers);
  }

  /**
   * Digests a step's results; once per schedule(), also when that scheduled nothing. The outputs repeat the answers to
   * cache queries, as outputs that are finished.
   */
  updateFromOutput(output: SchedulerOutput, result: ModelRunnerOutput): EngineCoreOutput[] {
    this.#stepUnderWay = [];
    const outputs = this.#pendingOutputs;
    this.#pendingOutputs = [];
    if (result.kvConnectorOutput) this.#digestTransfers(result.kvConnectorOutput, outputs);
    for (const scheduled of output.scheduled) {
      // It may have ended while its step ran.
      if (scheduled.request.isFinished) continue;
      const stepped = this.#advance(scheduled, result);
      if (stepped) outputs.push(stepped);
    }
    return outputs;
  }

  #answerCacheQueries(): CacheQueryAnswer[] {
    const queries = this.#cacheQueries;
    this.#cacheQueries = [];
    return queries.map((query) => {
      const answer = answerCacheQuery(query, this.#init.engineId, this.#kvCache, this.#connector);
      query.status = 'FINISHED_STOPPED';
      this.#pendingOutputs.push({
        ...ongoing,
        requestId: query.requestId,
        finished: query.status,
        kvTransferParams: answer.kv_transfer_params,
        cacheQueryAnswer: answer,
      });
      return answer;
    });
  }

  #promoteLoaded(): void {
    const ended = this.#endedLoads;
    this.#endedLoads = [];
    for (const { request, numLocalTokens, numArrivedTokens } of ended) {
      const numReadyTokens = numLocalTokens + numArrivedTokens;
      // Without one token to run there are no logits. Its block is written once more, so it is not named before that.
      request.numComputedTokens = Math.min(numReadyTokens, request.numTokens - 1);
      this.#kvCache.cacheBlocks(request, request.numComputedTokens);
      request.status = 'WAITING';
      this.#loaded.push(request);
    }
  }

  #scheduleRunning(plan: StepPlan): void {
    for (let i = 0; i < this.#running.length && plan.hasBudget; i += 1) {
      const request = this.#running[i]!;
      const numNewTokens = plan.share(request, request.numComputedTokens);
      let blockIds = this.#kvCache.allocateSlots(request, numNewTokens);
      while (!blockIds && this.#preemptLast(plan) !== request) {
        blockIds = this.#kvCache.allocateSlots(request, numNewTokens);
      }
      if (!blockIds) return;
      plan.add(request, numNewTokens, blockIds);
    }
  }

  /** Recompute style: the victim's blocks are freed, its full ones stay cached, and it starts from a fresh lookup. */
  #preemptLast(plan: StepPlan): Request {
    const victim = this.#running.pop()!;
    this.#kvCache.free(victim);
    victim.status = 'PREEMPTED';
    victim.numComputedTokens = 0;
    victim.numPreemptions += 1;
    this.#waiting.prepend(victim);
    plan.numPreemptions += 1;
    return victim;
  }

  #admit(plan: StepPlan): void {
    for (let request = this.#loaded[0]; request; request = this.#loaded[0]) {
      if (!this.#hasRoom(plan)) return;
      const numNewTokens = plan.share(request, request.numComputedTokens);
      const blockIds = this.#kvCache.allocateSlots(request, numNewTokens);
      // Nobody else may take blocks while one that holds some waits for more.
      if (!blockIds) return;
      this.#loaded.shift();
      this.#run(plan, request, numNewTokens, blockIds);
    }
    let numReservedBlocks = this.#countReservedBlocks();
    for (let request = this.#waiting.head; request; request = this.#waiting.head) {
      // A load takes neither budget nor a running slot.
      if (!this.#connector && !this.#hasRoom(plan)) return;
      const start = this.#findStart(request);
      if (start.numExternalTokens === 0 && !this.#hasRoom(plan)) return;
      if (!this.#begin(plan, request, start, numReservedBlocks)) return;
      numReservedBlocks += this.#kvCache.numMissingBlocks(request);
    }
  }

  #hasRoom(plan: StepPlan): boolean {
    return plan.hasBudget && this.#running.length < this.#init.scheduler.maxNumSeqs;
  }

  /** Blocks that requests begun before need to get through what they have: without these, parked ones could deadlock. */
  #countReservedBlocks(): number {
    let numBlocks = 0;
    for (const request of this.#running) numBlocks += this.#kvCache.numMissingBlocks(request);
    for (const request of this.#loads.requests()) {
      if (!request.isFinished) numBlocks += this.#kvCache.numMissingBlocks(request);
    }
    return numBlocks;
  }

  #findStart(request: Request): Start {
    const hit = this.#kvCache.getComputedBlocks(request);
    const numLocalTokens = hit.length * this.#kvCache.blockSize;
    const numExternalTokens = this.#connector?.getNumNewMatchedTokens(request, numLocalTokens) ?? 0;
    return { hit, numLocalTokens, numExternalTokens };
  }

  /** False, and no effect, if the request does not fit now. */
  #begin(plan: StepPlan, request: Request, start: Start, numReservedBlocks: number): boolean {
    const { hit, numLocalTokens, numExternalTokens } = start;
    const isLoad = numExternalTokens > 0;
    const numNewTokens = isLoad ? 0 : plan.share(request, numLocalTokens);
    // Asked before the allocation, which may evict what it asks about.
    const endsInCachedBlock = this.#endsInCachedBlock(request);
    const admission = { hit, numExternalTokens, numReservedBlocks };
    const blockIds = this.#kvCache.allocateSlots(request, numNewTokens, admission);
    if (!blockIds) return false;
    this.#waiting.remove(request);
    request.numComputedTokens = numLocalTokens;
    if (!this.#admitted.has(request)) this.#recordAdmission(request, start, endsInCachedBlock, blockIds);
    if (isLoad) {
      request.status = 'WAITING_FOR_REMOTE_KVS';
      this.#loads.begin({ request, numLocalTokens, numExternalTokens });
      plan.numParked += 1;
    } else {
      this.#run(plan, request, numNewTokens, blockIds);
    }
    return true;
  }

  #run(plan: StepPlan, request: Request, numNewTokens: number, blockIds: readonly number[]): void {
    request.status = 'RUNNING';
    this.#running.push(request);
    plan.add(request, numNewTokens, blockIds);
  }

  /** Once a request: the ledger, the statistics and the peer that holds blocks for it hear of its first admission only. */
  #recordAdmission(
    request: Request,
    { numLocalTokens, numExternalTokens }: Start,
    endsInCachedBlock: boolean,
    blockIds: readonly number[],
  ): void {
    this.#admitted.add(request);
    const connector = this.#connector;
    const numRemoteTokens = connector?.getNumRemoteTokens(request) ?? null;
    this.#prefills.admitted(request, {
      numLocalTokens,
      numExternalTokens,
      numRemoteTokens,
      endsInCachedBlock,
    });
    const stats = this.#prefixCacheStats;
    this.#prefixCacheStats = {
      queries: stats.queries + request.numTokens,
      hits: stats.hits + numLocalTokens,
      externalQueries: stats.externalQueries + (connector ? request.numTokens - numLocalTokens : 0),
      externalHits: stats.externalHits + numExternalTokens,
    };
    const numReadyTokens = numLocalTokens + numExternalTokens;
    const hashes = connector ? this.#hasher.prefixHashes(request, numReadyTokens) : [];
    connector?.updateStateAfterAlloc(request, blockIds, numLocalTokens, numExternalTokens, hashes);
  }

  #endsInCachedBlock({ numPromptTokens, blockHashes }: Request): boolean {
    const numBlocks = numPromptTokens / this.#kvCache.blockSize;
    return Number.isInteger(numBlocks) && this.#kvCache.isCached(blockHashes[numBlocks - 1]!);
  }

  #close(plan: StepPlan, cacheQueryAnswers: readonly CacheQueryAnswer[]): SchedulerOutput {
    this.#isStuck = plan.scheduled.length + plan.numParked + plan.numPreemptions === 0;
    this.#stepUnderWay = plan.scheduled;
    this.#lastStep = { numScheduledTokens: plan.numTokens, numPreemptions: plan.numPreemptions };
    const finishedRequestIds = this.#finishedRequestIds;
    this.#finishedRequestIds = [];
    return {
      scheduled: plan.scheduled,
      totalNumScheduledTokens: plan.numTokens,
      finishedRequestIds,
      cacheQueryAnswers,
      kvConnectorMetadata: this.#connector?.buildConnectorMeta() ?? null,
    };
  }

  /** The step's tokens have KV now; takes the sampled one. Null for a prompt that is not through yet. */
  #advance(scheduled: ScheduledRequest, result: ModelRunnerOutput): EngineCoreOutput | null {
    const { request } = scheduled;
    this.#kvCache.cacheBlocks(request, request.numComputedTokens);
    if (request.prefillStats === null && request.numComputedTokens >= request.numPromptTokens) {
      request.prefillStats = this.#prefills.completed(request);
    }
    if (!scheduled.samples) return null;
    const tokenId = result.sampledTokenIds.get(request.requestId);
    if (tokenId === undefined) {
      throw new VllmPdError(
        'INTERNAL',
        `Expected a sampled token for request ${request.requestId} but there is none`,
      );
    }
    request.tokenIds.push(tokenId);
    this.#hasher.extend(request);
    const stop = checkStop(request, this.#maxSequenceTokens);
    const base = stop
      ? this.#finish(request, stop)
      : { ...ongoing, requestId: request.requestId, prefillStats: request.prefillStats };
    const logprobs = result.logprobs.get(request.requestId);
    return { ...base, newTokenIds: [tokenId], newLogprobs: logprobs ? [logprobs] : [] };
  }

  #digestTransfers(report: KVConnectorOutput, outputs: EngineCoreOutput[]): void {
    if (!this.#connector) return;
    this.#isStuck = false;
    this.#loads.markInvalid(report.invalidBlockIds);
    for (const outcome of this.#connector.updateConnectorOutput(report)) {
      const ended = this.#loads.end(outcome, (request) => this.#kvCache.getBlockIds(request));
      if (!ended) continue;
      const { request } = ended;
      if (request.isFinished) {
        // Aborted while it was receiving: only now is nobody writing into its blocks any more.
        this.#kvCache.free(request);
        continue;
      }
      this.#endedLoads.push(ended);
      this.#prefills.loadEnded(request, ended.outcome, ended.numArrivedTokens);
      if (ended.outcome.failure && this.#init.kvLoadFailurePolicy === 'fail') {
        const error = `The KV blocks of request ${request.requestId} could not be loaded: ${ended.outcome.failure}`;
        outputs.push(this.#finish(request, { status: 'FINISHED_ERROR', error }));
      }
    }
    this.#freeEndedHolds();
  }

  // -------------------------------------------------------------------------------------------- ends

  #finish(request: Request, { status, stopReason = null, error }: Ending): EngineCoreOutput {
    const { requestId, numComputedTokens } = request;
    this.#isStuck = false;
    this.#dequeue(request);
    request.status = status;
    request.stopReason = stopReason;
    this.#requests.delete(requestId);
    this.#finishedRequestIds.push(requestId);
    this.#prefills.ended(request, numComputedTokens);
    const kvTransferParams = this.#leaveBlocks(request);
    const { prefillStats } = request;
    return {
      ...ongoing,
      requestId,
      finished: status,
      stopReason,
      kvTransferParams,
      prefillStats,
      error: error ?? null,
    };
  }

  #dequeue(request: Request): void {
    if (request.status === 'RUNNING') {
      this.#running.splice(this.#running.indexOf(request), 1);
      return;
    }
    this.#waiting.remove(request);
    this.#loaded = this.#loaded.filter((candidate) => candidate !== request);
    this.#endedLoads = this.#endedLoads.filter((load) => load.request !== request);
  }

  /** Frees the request's blocks, or keeps those with KV for a peer; those that are being loaded are kept until that ends. */
  #leaveBlocks(request: Request): EngineCoreOutput['kvTransferParams'] {
    if (!this.#admitted.has(request)) {
      this.#connector?.requestDropped(request);
      return null;
    }
    const { numComputedTokens } = request;
    const numBlocks = Math.ceil(numComputedTokens / this.#kvCache.blockSize);
    const blockIds = this.#kvCache.getBlockIds(request).slice(0, numBlocks);
    const decision = this.#connector?.requestFinished(request, blockIds, numComputedTokens);
    if (this.#loads.has(request)) return decision?.kvTransferParams ?? null;
    if (decision?.holdBlocks) {
      this.#kvCache.holdRequest(request, this.#hasher.prefixHashes(request, numComputedTokens));
    } else {
      this.#kvCache.free(request);
    }
    return decision?.kvTransferParams ?? null;
  }

  #freeEndedHolds(): void {
    for (const id of this.#connector?.takeEndedHolds() ?? []) {
      this.#kvCache.endHold(id);
      this.#isStuck = false;
    }
  }

  /** Why the request could not run even if it were alone; null if it could. */
  #whyNever({ numPromptTokens }: Request): string | null {
    const { maxModelLen } = this.#init.scheduler;
    if (numPromptTokens >= maxModelLen) {
      return `Expected a prompt of fewer than ${maxModelLen} tokens (max_model_len) but received ${numPromptTokens}`;
    }
    if (numPromptTokens > this.#numPoolTokens) {
      return `Expected a prompt that fits in the KV cache of ${this.#numPoolTokens} tokens but received ${numPromptTokens}`;
    }
    return null;
  }

  get #numPoolTokens(): number {
    const { numBlocks, blockSize } = this.#init.cache;
    return (numBlocks - 1) * blockSize;
  }

  #assertNewId(requestId: string): void {
    const isTaken =
      this.#requests.has(requestId) ||
      this.#loads.hasId(requestId) ||
      this.#kvCache.hasHold(requestId) ||
      this.#cacheQueries.some((query) => query.requestId === requestId);
    if (isTaken) {
      throw new VllmPdError('INVALID_ARGUMENT', `Expected a new request id but ${requestId} is in use`, {
        param: 'request_id',
      });
    }
  }

  // -------------------------------------------------------------------------------------------- what there is

  /** True if schedule() could do something right now. Loads under way and holds that are not due do not count. */
  hasWork(): boolean {
    if (this.#cacheQueries.length + this.#endedLoads.length + this.#running.length > 0) return true;
    if (this.#pendingOutputs.length + this.#finishedRequestIds.length > 0) return true;
    if (this.#connector?.hasQueuedPulls) return true;
    const deadlineMs = this.nextDeadlineMs();
    if (deadlineMs !== null && deadlineMs <= this.#init.clock()) return true;
    return !this.#isStuck && this.#waiting.size + this.#loaded.length > 0;
  }

  /** True while a request is not finished, or the load of an aborted one is under way. */
  hasUnfinishedRequests(): boolean {
    return this.#requests.size + this.#cacheQueries.length + this.#loads.size > 0;
  }

  /**
   * `onlyFree`: forgets the cached blocks that nobody uses; true. Otherwise forgets all, or none and false while any
   * block is in use.
   */
  resetPrefixCache(options: { readonly onlyFree: boolean }): boolean {
    return this.#kvCache.resetPrefixCache(options);
  }

  /** When the next hold expires, on the injected clock: schedule() is due then. Null = none. */
  nextDeadlineMs(): number | null {
    return this.#connector?.nextDeadlineMs() ?? null;
  }

  state(): SchedulerState {
    const { numBlocks, numFreeBlocks, numCachedBlocks, numHolds } = this.#kvCache;
    return {
      numBlocks,
      numFreeBlocks,
      numCachedBlocks,
      numRunning: this.#running.length,
      numWaiting: this.#requests.size - this.#running.length + this.#cacheQueries.length,
      numHolds,
      numPendingLoads: this.#loads.size,
    };
  }

  get stepStats(): SchedulerStepStats {
    const numWaitingForRemoteKvs = this.#loads.requests().filter((request) => !request.isFinished).length;
    return {
      numRunning: this.#running.length,
      numWaiting: this.#requests.size - this.#running.length - numWaitingForRemoteKvs,
      numWaitingForRemoteKvs,
      kvCacheUsage: this.#kvCache.usage,
      numHolds: this.#kvCache.numHolds,
      ...this.#lastStep,
    };
  }

  get prefixCacheStats(): SchedulerPrefixCacheStats {
    return this.#prefixCacheStats;
  }

  /** Throws INTERNAL unless every block is accounted for. O(blocks). */
  checkInvariants(): void {
    this.#kvCache.checkInvariants();
  }

  /** Throws INTERNAL unless nothing is left behind: free + 1 = numBlocks, no hold, no request, nothing parked. */
  assertEmpty(): void {
    this.checkInvariants();
    const { numBlocks, numFreeBlocks, numHolds } = this.#kvCache;
    const left = {
      blocks: numBlocks - 1 - numFreeBlocks,
      holds: numHolds,
      requests: this.#requests.size + this.#cacheQueries.length,
      loads: this.#loads.size + (this.#connector?.numPendingLoads ?? 0),
    };
    if (Object.values(left).some((count) => count > 0)) {
      throw new VllmPdError(
        'INTERNAL',
        `Expected nothing to be left behind but found ${JSON.stringify(left)}`,
      );
    }
  }
}
