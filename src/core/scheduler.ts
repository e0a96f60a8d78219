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
import type { BlockHash, CacheQueryAnswer } from '../wire.js';
import { Admission } from './admission.js';
import { assertTokenIds, BlockHasher, type HashBlocks } from './block-hash.js';
import type { BlockTableSink } from './block-table-sink.js';
import { CacheQueries } from './cache-query.js';
import { type ExternalStorage, KVCacheManager } from './kv-cache-manager.js';
import { PrefillTracker } from './prefill-tracker.js';
import { type Ending, RequestEnds } from './request-ends.js';
import { answerOutput, ongoing } from './request-outputs.js';
import { RunningRequests } from './running-requests.js';
import type { SchedulerPrefixCacheStats, SchedulerState, SchedulerStepStats } from './scheduler-stats.js';
import { SequenceLimits } from './sequence-limits.js';
import { StepPlan } from './step-plan.js';
import { StepResults } from './step-results.js';

export interface SchedulerInit {
  readonly engineId: string;
  readonly cache: CacheConfig;
  readonly scheduler: SchedulerConfig;
  /** Default 'recompute'. */
  readonly kvLoadFailurePolicy?: KvTransferConfig['kvLoadFailurePolicy'];
  /** Null = an aggregated engine. */
  readonly connector: KVConnectorScheduler | null;
  readonly sink: BlockTableSink;
  /** Tokens a step of requests that need log probabilities of their prompt: their logits take memory. Absent = no limit. */
  readonly maxPromptLogprobs?: number;
  /** Absent = the pool is all there is. */
  readonly external?: ExternalStorage;
  /** Hashes many blocks at once; absent = the hasher of core does. */
  readonly hashBlocks?: HashBlocks;
  /** Milliseconds, monotonic; the same clock as the connector's. */
  readonly clock: () => number;
}

export class Scheduler {
  readonly #init: SchedulerInit;
  readonly #connector: KVConnectorScheduler | null;
  readonly #hasher: BlockHasher;
  readonly #kvCache: KVCacheManager;
  readonly #limits: SequenceLimits;

  /** Unfinished, cache queries left out. Each is either in `#running` or with `#admission`. */
  readonly #requests = new Map<string, Request>();
  readonly #running: RunningRequests;
  readonly #admission: Admission;
  readonly #ends: RequestEnds;
  readonly #cacheQueries: CacheQueries;
  readonly #stepResults: StepResults;
  #stepUnderWay: readonly ScheduledRequest[] = [];
  /** Outputs of requests that ended outside updateFromOutput and whose caller was not told. */
  #pendingOutputs: EngineCoreOutput[] = [];
  /** No waiting request fitted in the last schedule(), and nothing has changed since. */
  #isStuck = false;
  /** Requests that found no room in the last schedule(). */
  #numLeftBehind = 0;
  #lastStep = { numScheduledTokens: 0, numPreemptions: 0 };

  constructor(init: SchedulerInit) {
    const { cache, scheduler, connector } = init;
    const hasher = new BlockHasher(cache.blockSize, cache.hashSeed, init.hashBlocks);
    const kvCache = new KVCacheManager(cache, init.sink, init.external);
    const prefills = new PrefillTracker(hasher);
    const { maxNumSeqs, policy } = scheduler;
    const admission = new Admission({ maxNumSeqs, policy, kvCache, hasher, prefills, connector });
    const requeue = (victim: Request) => admission.prepend(victim);
    const running = new RunningRequests({ policy, kvCache, requeue });
    this.#init = init;
    this.#connector = connector;
    this.#hasher = hasher;
    this.#kvCache = kvCache;
    this.#limits = new SequenceLimits(cache, scheduler);
    this.#running = running;
    this.#admission = admission;
    this.#ends = new RequestEnds({ running, admission, prefills, kvCache, hasher, connector });
    this.#cacheQueries = new CacheQueries({ engineId: init.engineId, kvCache, connector });
    const { maxTokens } = this.#limits;
    const finish = (request: Request, ending: Ending) => this.#finish(request, ending);
    this.#stepResults = new StepResults({ kvCache, prefills, blockSize: cache.blockSize, maxTokens, finish });
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
      this.#cacheQueries.add(request);
      return;
    }
    if (request.numPromptTokens === 0) {
      throw new VllmPdError('INVALID_ARGUMENT', 'Expected a prompt of at least one token but received none', {
        param: 'prompt',
      });
    }
    this.#isStuck = false;
    this.#requests.set(request.requestId, request);
    this.#admission.append(request);
    const refusal = this.#limits.whyNever(request.numPromptTokens);
    if (refusal !== null) {
      this.#pendingOutputs.push(this.#finish(request, { status: 'FINISHED_IGNORED', error: refusal }));
      return;
    }
    this.#hasher.extend(request);
    // It will load nothing, so no store need be asked.
    if (request.needsPromptLogprobs) return;
    const numLocalTokens = this.#kvCache.getComputedBlocks(request).length * this.#kvCache.blockSize;
    this.#connector?.requestAdded?.(request, numLocalTokens);
  }

  /** Names the blocks of a request's prompt, before or after it is added. Token ids must be checked. */
  hashPrompt(request: Request): readonly BlockHash[] {
    this.#hasher.extend(request);
    return request.blockHashes;
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
    if (this.#cacheQueries.remove(requestId)) return { ...ongoing, requestId, finished: status, stopReason };
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
    const cacheQueryAnswers = this.answerCacheQueries();
    this.#admission.promoteLoaded();
    this.#admission.promoteLookedUp();
    const plan = new StepPlan(this.#init.scheduler.maxNumBatchedTokens, this.#init.maxPromptLogprobs);
    this.#running.schedule(plan);
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
    const grown: Request[] = [];
    for (const scheduled of output.scheduled) {
      // It may have ended while its step ran.
      if (scheduled.request.isFinished) continue;
      const stepped = this.#stepResults.advance(scheduled, result, grown);
      if (stepped) outputs.push(stepped);
    }
    this.#hasher.extendAll(grown);
    return outputs;
  }

  /**
   * What schedule() does first, and what may also be done while a step is under way: a query touches cached blocks only,
   * and those are not written.
   */
  answerCacheQueries(): CacheQueryAnswer[] {
    const answers = this.#cacheQueries.answer();
    for (const answer of answers) this.#pendingOutputs.push(answerOutput(answer));
    return answers;
  }

  /**
   * Where nothing runs or loads, only the end of a hold can make room for who waits; and the peer that would end it may
   * itself be waiting for us (P keeps prompts for D while D keeps answers for P). Then what merely saves it work goes.
   */
  #admit(plan: StepPlan): void {
    this.#admission.admit(plan, this.#running);
    while (this.#waitsForHolds && this.#connector?.revokeOldestHold()) {
      this.#freeEndedHolds();
      this.#admission.admit(plan, this.#running);
    }
  }

  get #waitsForHolds(): boolean {
    const { numReady, numLoads } = this.#admission;
    return numReady > 0 && this.#running.size + numLoads === 0;
  }

  #close(plan: StepPlan, cacheQueryAnswers: readonly CacheQueryAnswer[]): SchedulerOutput {
    // What could be done was done; after a preemption, though, nobody was asked whether the freed blocks will do.
    this.#isStuck = plan.numPreemptions === 0;
    this.#numLeftBehind = this.#admission.numReady;
    this.#stepUnderWay = plan.scheduled;
    this.#lastStep = { numScheduledTokens: plan.numTokens, numPreemptions: plan.numPreemptions };
    return {
      scheduled: plan.scheduled,
      totalNumScheduledTokens: plan.numTokens,
      cacheQueryAnswers,
      kvConnectorMetadata: this.#connector?.buildConnectorMeta() ?? null,
    };
  }

  #digestTransfers(report: KVConnectorOutput, outputs: EngineCoreOutput[]): void {
    if (!this.#connector) return;
    this.#isStuck = false;
    this.#admission.markInvalid(report.invalidBlockIds);
    for (const outcome of this.#connector.updateConnectorOutput(report)) {
      const ended = this.#admission.endLoad(outcome);
      if (!ended) continue;
      const { request } = ended;
      const { failure } = ended.outcome;
      if (request.isFinished) {
        // Aborted while it was receiving: only now is nobody writing into its blocks any more.
        this.#kvCache.free(request);
      } else if (failure && this.#init.kvLoadFailurePolicy === 'fail') {
        const error = `The KV blocks of request ${request.requestId} did not arrive (${failure}).`;
        outputs.push(this.#finish(request, { status: 'FINISHED_ERROR', error }));
      }
    }
    this.#freeEndedHolds();
  }

  // -------------------------------------------------------------------------------------------- ends

  /** Its last output, without new tokens. */
  #finish(request: Request, ending: Ending): EngineCoreOutput {
    this.#isStuck = false;
    this.#requests.delete(request.requestId);
    return this.#ends.finish(request, ending);
  }

  #freeEndedHolds(): void {
    for (const id of this.#connector?.takeEndedHolds() ?? []) {
      this.#kvCache.endHold(id);
      this.#isStuck = false;
    }
  }

  #assertNewId(requestId: string): void {
    const isTaken =
      this.#requests.has(requestId) ||
      this.#admission.isLoadingId(requestId) ||
      this.#kvCache.hasHold(requestId) ||
      this.#cacheQueries.has(requestId);
    if (isTaken) {
      throw new VllmPdError('INVALID_ARGUMENT', `Expected a new request id but ${requestId} is in use`, {
        param: 'request_id',
      });
    }
  }

  // -------------------------------------------------------------------------------------------- what there is

  /** True if schedule() could do something right now. Loads under way and holds that are not due do not count. */
  hasWork(): boolean {
    if (this.#cacheQueries.size + this.#admission.numEndedLoads + this.#running.size > 0) return true;
    if (this.#pendingOutputs.length > 0) return true;
    if (this.#connector?.hasQueuedPulls) return true;
    const deadlineMs = this.nextDeadlineMs();
    if (deadlineMs !== null && deadlineMs <= this.#init.clock()) return true;
    return !this.#isStuck && this.#admission.numReady > 0;
  }

  /** Requests that wait in vain: those that the last step left behind, and what came since beyond the free slots. */
  get numQueued(): number {
    const { numReady } = this.#admission;
    const numLeftBehind = Math.min(this.#numLeftBehind, numReady);
    const numFreeSlots = numLeftBehind > 0 ? 0 : this.#init.scheduler.maxNumSeqs - this.#running.size;
    return numLeftBehind + Math.max(0, numReady - numLeftBehind - numFreeSlots);
  }

  /** True while a request is not finished, or the load of an aborted one is under way. */
  hasUnfinishedRequests(): boolean {
    return this.#requests.size + this.#cacheQueries.size + this.#admission.numLoads > 0;
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
      numRunning: this.#running.size,
      numWaiting: this.#requests.size - this.#running.size + this.#cacheQueries.size,
      numHolds,
      numPendingLoads: this.#admission.numLoads,
    };
  }

  get stepStats(): SchedulerStepStats {
    const { numWaitingForRemoteKvs } = this.#admission;
    return {
      numRunning: this.#running.size,
      numWaiting: this.#requests.size - this.#running.size - numWaitingForRemoteKvs,
      numWaitingForRemoteKvs,
      kvCacheUsage: this.#kvCache.usage,
      numHolds: this.#kvCache.numHolds,
      ...this.#lastStep,
    };
  }

  get prefixCacheStats(): SchedulerPrefixCacheStats {
    return this.#admission.prefixCacheStats;
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
      requests: this.#requests.size + this.#cacheQueries.size,
      loads: this.#admission.numLoads + (this.#connector?.numPendingLoads ?? 0),
    };
    if (Object.values(left).some((count) => count > 0)) {
      throw new VllmPdError(
        'INTERNAL',
        `Expected nothing to be left behind but found ${JSON.stringify(left)}`,
      );
    }
  }
}
