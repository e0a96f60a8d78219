// The KV connector's two halves as interfaces: one decides inside the scheduler, one moves bytes beside the model.
import type { KVConnectorMetadata, KVConnectorOutput, StoreReads } from '../outputs.js';
import type { Request } from '../request.js';
import type { BlockHash, KvTransferParams } from '../wire.js';
import type { PullEstimate } from './load-plan.js';

/** What a finished request leaves behind. */
export interface FinishDecision {
  /** True: the blocks stay allocated until `takeEndedHolds` returns the request's id. */
  readonly holdBlocks: boolean;
  /** Goes into the response. */
  readonly kvTransferParams: KvTransferParams | null;
}

export interface QueryLease {
  readonly id: string;
  readonly expiresInMs: number;
  readonly kvTransferParams: KvTransferParams;
}

/** Why a load ended as it did, for the ledger. */
export interface PullOutcome {
  readonly requestId: string;
  /** From the peer. */
  readonly numBytes: number;
  readonly transferMs: number;
  /** Absent when no store was asked. */
  readonly stores?: StoreReads;
  /** Of `numBytes`, those that the shared store had too. */
  readonly twoHopBytes?: number;
  readonly failure: 'lease_expired' | 'transfer_failed' | null;
}

/** Lives in the scheduler; synchronous; knows block ids, not blocks. */
export interface KVConnectorScheduler {
  /**
   * Prompt tokens that can be loaded beyond `numLocalTokens` (block-aligned local hit). No side effects; may be asked
   * often. 0 once the request's one load was started, and whenever this node may not pull. Null: not known yet, since
   * stores are being asked; the engine is woken when it is.
   */
  getNumNewMatchedTokens(request: Request, numLocalTokens: number): number | null;
  /** A new request, of whose prompt this many tokens are cached here: the time to ask stores for the others. */
  requestAdded?(request: Request, numLocalTokens: number): void;
  /** What the load that was planned last for this request was thought to cost; null when there was nothing to read. */
  getPullEstimate?(request: Request): PullEstimate | null;
  /** Tokens (from position 0) that the peer offers for this request whether or not they will be pulled; null = not asked. */
  getNumRemoteTokens(request: Request): number | null;
  /**
   * After blocks were allocated. `blockIds` is the request's whole table. With `numExternalTokens` > 0 a load into the
   * blocks behind `numLocalTokens` is queued, checked against `blockHashes`: one per block from position 0 of the
   * prompt's first numLocalTokens + numExternalTokens tokens, the last one possibly of a partial block. With 0 and a
   * peer holding blocks for us, a bare notification is queued. Once per request.
   */
  updateStateAfterAlloc(
    request: Request,
    blockIds: readonly number[],
    numLocalTokens: number,
    numExternalTokens: number,
    blockHashes: readonly BlockHash[],
  ): void;
  /** True while something is queued for `buildConnectorMeta`, so that the engine steps once more even when it is idle. */
  readonly hasQueuedPulls: boolean;
  /** Loads to start in this step; clears what was queued. Null when there is nothing to do. */
  buildConnectorMeta(): KVConnectorMetadata | null;
  /** Digests the worker half's report; returns the loads that ended. */
  updateConnectorOutput(output: KVConnectorOutput): readonly PullOutcome[];
  /** Called exactly once per request, before its blocks are freed. `numTokens`: tokens whose KV is in `blockIds`. */
  requestFinished(request: Request, blockIds: readonly number[], numTokens: number): FinishDecision;
  /** A request that ends before it was ever allocated: frees what a peer holds for it. */
  requestDropped(request: Request): void;
  /** A cache query found these blocks and asked for a lease on them. */
  grantLease(request: Request, blockIds: readonly number[], numTokens: number): QueryLease;
  /** Ends a lease by hand. False if there is none of that id. */
  releaseLease(id: string): boolean;
  /**
   * Ends the oldest hold that saves a peer computation and no more (a lease, a ticket): the peer finds out when it reads.
   * What P holds for D is not among them. False if there is none.
   */
  revokeOldestHold(): boolean;
  /** Ids of holds (finished requests, leases) that ended since the last call, in whichever way. */
  takeEndedHolds(): readonly string[];
  /** When the next hold expires, on the scheduler's clock; null = none. */
  nextDeadlineMs(): number | null;
  readonly numHolds: number;
  /** Loads started and not yet reported back. */
  readonly numPendingLoads: number;
}

/** Lives beside the model runner. */
export interface KVConnectorWorker {
  /** Starts the step's loads and notifications; returns at once. */
  startLoadKv(metadata: KVConnectorMetadata): void;
  /** What ended since the last call; null when nothing did. */
  getFinished(): KVConnectorOutput | null;
  /** Called (once per change, possibly many times) when `getFinished` has something new. */
  onProgress(wake: () => void): void;
  /** Loads under way. */
  readonly numPendingLoads: number;
  close(): Promise<void>;
}
