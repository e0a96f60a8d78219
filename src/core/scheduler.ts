// The scheduler: what each step runs, and what became of it.
import type { CacheConfig, KvTransferConfig, SchedulerConfig } from '../config.js';
import { VllmPdError } from '../errors.js';
import type { KVConnectorScheduler } from '../kv-transfer/connector.js';
import type { EngineCoreOutput, ModelRunnerOutput, SchedulerOutput } from '../outputs.js';
import type { FinishedStatus, Request } from '../request.js';
import type { BlockTableSink } from './block-table-sink.js';
import type { SchedulerPrefixCacheStats, SchedulerState, SchedulerStepStats } from './scheduler-stats.js';

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

const skeleton = () => new VllmPdError('INTERNAL', 'The scheduler is not written yet');

export class Scheduler {
  constructor(_init: SchedulerInit) {}

  /**
   * Queues a request, or a cache query. Throws INVALID_ARGUMENT (no effect) when a token id is not a uint32 or the id is
   * taken. A request that can never run ends FINISHED_IGNORED with a sentence, reported by the next updateFromOutput.
   */
  addRequest(_request: Request): void {
    throw skeleton();
  }

  /** finishRequest(id, 'FINISHED_ABORTED'). */
  abortRequest(requestId: string): EngineCoreOutput | null {
    return this.finishRequest(requestId, 'FINISHED_ABORTED');
  }

  /**
   * Ends a request from outside (abort, stop string), at any time, also while its step runs. Returns its last output
   * (no new tokens; carries kvTransferParams when blocks are held for a peer); null if the request is not known (any more).
   */
  finishRequest(
    _requestId: string,
    _status: FinishedStatus,
    _stopReason?: number | string | null,
  ): EngineCoreOutput | null {
    throw skeleton();
  }

  /** Plans one step. Cache queries are answered here; the answers may be delivered before the step runs. */
  schedule(): SchedulerOutput {
    throw skeleton();
  }

  /**
   * Digests a step's results, once per schedule() (also when it scheduled nothing). The outputs also repeat the
   * answers to cache queries, as outputs with `finished: 'FINISHED_STOPPED'`.
   */
  updateFromOutput(_output: SchedulerOutput, _result: ModelRunnerOutput): EngineCoreOutput[] {
    throw skeleton();
  }

  /** True if schedule() could do something right now. Loads under way and holds not yet due do not count. */
  hasWork(): boolean {
    throw skeleton();
  }

  /** True while a request is not finished, or an aborted one's load is still under way. */
  hasUnfinishedRequests(): boolean {
    throw skeleton();
  }

  /** Ends a lease by hand; its blocks are free after the next schedule(). False if there is none of that id. */
  releaseLease(_leaseId: string): boolean {
    throw skeleton();
  }

  /** `onlyFree`: forgets cached blocks that nobody uses (true). Otherwise all or, while any block is in use, none (false). */
  resetPrefixCache(_options: { readonly onlyFree: boolean }): boolean {
    throw skeleton();
  }

  /** When the next hold expires, on the injected clock; call schedule() then. Null = none. */
  nextDeadlineMs(): number | null {
    throw skeleton();
  }

  state(): SchedulerState {
    throw skeleton();
  }

  get stepStats(): SchedulerStepStats {
    throw skeleton();
  }

  get prefixCacheStats(): SchedulerPrefixCacheStats {
    throw skeleton();
  }

  /** Throws INTERNAL unless every block is accounted for. O(blocks). */
  checkInvariants(): void {
    throw skeleton();
  }

  /** Throws INTERNAL unless nothing is left behind: free + 1 = numBlocks, no hold, no request, nothing parked. */
  assertEmpty(): void {
    throw skeleton();
  }
}
