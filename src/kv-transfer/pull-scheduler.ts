// The connector's scheduler half: what to pull from whom, what to hold for whom and for how long.
import type { KvTransferConfig } from '../config.js';
import type { HoldTable } from '../native/hold-table.js';
import type {
  FinishedPull,
  KVConnectorMetadata,
  KVConnectorOutput,
  PullSpec,
  StoreLoadSpec,
} from '../outputs.js';
import type { Request, RequestStatus } from '../request.js';
import type { BlockHash, KvTransferParams } from '../wire.js';
import { macOfClaims } from './claims.js';
import type { FinishDecision, KVConnectorScheduler, PullOutcome, QueryLease } from './connector.js';
import { type HoldEnd, Leases } from './leases.js';
import type { PullEstimate } from './load-plan.js';
import { type HopBytes, LoadPlanner } from './load-planner.js';
import { type Offer, offerOf } from './offer.js';
import { cachedTokensOf, classifyTransfer, remoteBlocksOf } from './params.js';

export interface PullConnectorSchedulerOptions {
  readonly config: KvTransferConfig;
  readonly blockSize: number;
  /** Where peers reach this node's agent. */
  readonly host: string;
  readonly port: number;
  /** Absent = no stores, and costs that nobody measured. */
  readonly planner?: LoadPlanner;
  /** Hears of every hold, for peers that read over tcp; absent = none does. */
  readonly holds?: HoldTable;
  /** Monotonic, in ms; the clock that `Request.arrivalTimeMs` was read from. */
  readonly clock: () => number;
}

/** `prefill`: P keeps a prompt for D. `ticket`: D keeps a turn for P. `query`: a cache query asked for a lease. */
type HoldKind = 'prefill' | 'ticket' | 'query';

/** The request did all that was asked of this node. */
const completeStatuses: ReadonlySet<RequestStatus> = new Set([
  'FINISHED_STOPPED',
  'FINISHED_LENGTH_CAPPED',
  'FINISHED_HANDED_OVER',
]);

const nothingHeld: FinishDecision = { holdBlocks: false, kvTransferParams: null };

export class PullConnectorScheduler implements KVConnectorScheduler {
  readonly #config: KvTransferConfig;
  readonly #blockSize: number;
  readonly #host: string;
  readonly #port: number;
  readonly #clock: () => number;
  readonly #planner: LoadPlanner;
  readonly #holds: HoldTable | null;
  readonly #leases: Leases;
  /** Live requests whose one load, or whose notification in its place, was queued. */
  readonly #settled = new Set<string>();
  /** Loads queued and not yet reported back. */
  readonly #pendingLoads = new Set<string>();
  #queue: PullSpec[] = [];
  #storeLoads: StoreLoadSpec[] = [];
  #numLeasesGranted = 0;

  constructor(options: PullConnectorSchedulerOptions) {
    this.#config = options.config;
    this.#blockSize = options.blockSize;
    this.#host = options.host;
    this.#port = options.port;
    this.#clock = options.clock;
    this.#holds = options.holds ?? null;
    this.#leases = new Leases((id) => this.#holds?.end(id));
    const { blockSize, config } = options;
    this.#planner =
      options.planner ??
      new LoadPlanner({ blockSize, blockBytes: 0, minTokens: config.kvRecomputeThreshold });
  }

  requestAdded(request: Request, numLocalTokens: number): void {
    this.#planner.requestAdded(request, numLocalTokens);
  }

  getNumNewMatchedTokens(request: Request, numLocalTokens: number): number | null {
    if (this.#settled.has(request.requestId)) return 0;
    const plan = this.#planner.plan(request, numLocalTokens, this.#offerOf(request));
    return plan?.numExternalTokens ?? null;
  }

  getPullEstimate(request: Request): PullEstimate | null {
    return this.#planner.planned(request.requestId).estimate;
  }

  getNumRemoteTokens(request: Request): number | null {
    return this.#offerOf(request)?.numOfferedTokens ?? null;
  }

  updateStateAfterAlloc(
    request: Request,
    blockIds: readonly number[],
    numLocalTokens: number,
    numExternalTokens: number,
    blockHashes: readonly BlockHash[],
  ): void {
    if (this.#settled.has(request.requestId)) return;
    if (numExternalTokens === 0) {
      this.#releasePeer(request);
      this.#settled.add(request.requestId);
      return;
    }
    this.#settled.add(request.requestId);
    const first = numLocalTokens / this.#blockSize;
    const end = Math.ceil((numLocalTokens + numExternalTokens) / this.#blockSize);
    const localBlockIds = blockIds.slice(first, end);
    const hashes = blockHashes.slice(first, end);
    const source = this.#peerOf(request);
    const whole = source && {
      requestId: request.requestId,
      remote: source.remote,
      // A peer that may not be read is told at least that it need not wait.
      remoteBlockIds: this.#offerOf(request) ? source.blockIds.slice(first, end) : [],
      localBlockIds,
      blockHashes: hashes,
    };
    const load = this.#planner.split(request, localBlockIds, hashes, whole);
    if ('pull' in load) this.#queue.push(load.pull);
    else this.#storeLoads.push(load.storeLoad);
    this.#pendingLoads.add(request.requestId);
  }

  get hasQueuedPulls(): boolean {
    return this.#queue.length + this.#storeLoads.length > 0;
  }

  buildConnectorMeta(): KVConnectorMetadata | null {
    if (!this.hasQueuedPulls) return null;
    const pulls = this.#queue;
    const storeLoads = this.#storeLoads;
    this.#queue = [];
    this.#storeLoads = [];
    return storeLoads.length > 0 ? { pulls, storeLoads } : { pulls };
  }

  updateConnectorOutput(output: KVConnectorOutput): readonly PullOutcome[] {
    for (const { requestId } of output.finishedSending) this.#leases.end(requestId, 'notified');
    return output.finishedRecving.flatMap((pull) => {
      if (!this.#pendingLoads.delete(pull.requestId)) return [];
      const twoHopBytes = this.#planner.loadEnded(pull);
      if (!this.#settled.has(pull.requestId)) this.#planner.forget(pull.requestId);
      return [
        {
          requestId: pull.requestId,
          numBytes: pull.numBytes,
          transferMs: pull.transferMs,
          failure: failureOf(pull),
          ...(pull.stores && { stores: pull.stores }),
          ...(twoHopBytes > 0 && { twoHopBytes }),
        },
      ];
    });
  }

  requestFinished(request: Request, blockIds: readonly number[], numTokens: number): FinishDecision {
    this.requestDropped(request);
    const kind = this.#holdKindFor(request);
    const heldBlockIds = blockIds.slice(0, Math.ceil(numTokens / this.#blockSize));
    if (kind === null || heldBlockIds.length === 0) return nothingHeld;
    const durationMs = kind === 'ticket' ? this.#config.decoderKvBlocksTtlMs : this.#config.kvLeaseDurationMs;
    const lease = { isRevocable: kind === 'ticket' };
    if (!this.#hold(request.requestId, heldBlockIds, durationMs, lease)) return nothingHeld;
    const params = this.#describeHold(request.requestId, kind, heldBlockIds, numTokens, durationMs);
    const stats = request.prefillStats;
    if (kind === 'ticket' || !stats) return { holdBlocks: true, kvTransferParams: params };
    const shared = this.#planner.sharedHashes(request);
    const claimed = {
      ...params,
      ...(shared.length > 0 && { remote_shared_block_hashes: shared }),
      remote_prefill_cached_tokens: cachedTokensOf(stats),
      remote_prefill_stats: stats,
    };
    return { holdBlocks: true, kvTransferParams: this.#signed(claimed, request) };
  }

  requestDropped(request: Request): void {
    this.#releasePeer(request);
    this.#settled.delete(request.requestId);
    if (!this.#pendingLoads.has(request.requestId)) this.#planner.forget(request.requestId);
  }

  grantLease(request: Request, blockIds: readonly number[], numTokens: number): QueryLease {
    this.#numLeasesGranted += 1;
    const id = `lease-${this.#numLeasesGranted}-${request.requestId}`;
    const expiresInMs = this.#config.kvLeaseDurationMs;
    this.#hold(id, blockIds, expiresInMs, { isRevocable: true });
    return {
      id,
      expiresInMs,
      kvTransferParams: this.#describeHold(id, 'query', blockIds, numTokens, expiresInMs),
    };
  }

  releaseLease(id: string): boolean {
    return this.#leases.end(id, 'released');
  }

  revokeOldestHold(): boolean {
    return this.#leases.revokeOldest();
  }

  takeEndedHolds(): readonly string[] {
    this.#leases.expire(this.#clock());
    return this.#leases.takeEnded();
  }

  nextDeadlineMs(): number | null {
    return this.#leases.nextDeadlineMs();
  }

  get numHolds(): number {
    return this.#leases.size;
  }

  get numPendingLoads(): number {
    return this.#pendingLoads.size;
  }

  /** Whether blocks are held under this id right now, for a peer that asks. */
  isHeld(id: string): boolean {
    return this.#leases.isHeld(id, this.#clock());
  }

  /** Holds that ended in this way since start. */
  numEndedHolds(how: HoldEnd): number {
    return this.#leases.numEnded(how);
  }

  /** Bytes that came here since start. */
  get hops(): HopBytes {
    return this.#planner.hops;
  }

  /** False when a hold of that id stands already. */
  #hold(
    id: string,
    blockIds: readonly number[],
    forMs: number,
    options: { readonly isRevocable: boolean },
  ): boolean {
    if (!this.#leases.grant(id, this.#clock() + forMs, options)) return false;
    this.#holds?.grant(id, blockIds, forMs);
    return true;
  }

  /** Who holds blocks for the request; a hold of this node itself ends here. */
  #peerOf(request: Request): ReturnType<typeof remoteBlocksOf> {
    const kind = classifyTransfer(request.kvTransferParams);
    const source = remoteBlocksOf(request.kvTransferParams);
    if (!source || (kind !== 'remote_prefill' && kind !== 'remote_decode')) return null;
    if (!this.#isOwnHold(request)) return source;
    this.#leases.end(source.remote.requestId, 'released');
    return null;
  }

  #offerOf(request: Request): Offer | null {
    return this.#isOwnHold(request) ? null : offerOf(request, this.#config, this.#blockSize);
  }

  /** The params name this very node: reading from itself would deadlock on its own hold, so that is ended instead. */
  #isOwnHold(request: Request): boolean {
    return request.kvTransferParams?.remote_engine_id === this.#config.engineId;
  }

  /** Ends, without a read, what a peer (or this node itself) holds for the request. Once per request. */
  #releasePeer(request: Request): void {
    if (this.#settled.has(request.requestId)) return;
    const source = this.#peerOf(request);
    if (!source) return;
    this.#settled.add(request.requestId);
    this.#queue.push({
      requestId: request.requestId,
      remote: source.remote,
      remoteBlockIds: [],
      localBlockIds: [],
      blockHashes: [],
    });
  }

  #signed(params: KvTransferParams, { tokenIds, numPromptTokens }: Request): KvTransferParams {
    const { key } = this.#config;
    if (key === null) return params;
    const mac = macOfClaims(key, params, tokenIds.slice(0, numPromptTokens));
    return { ...params, remote_claims_mac: mac };
  }

  #holdKindFor(request: Request): HoldKind | null {
    if (!completeStatuses.has(request.status)) return null;
    const kind = classifyTransfer(request.kvTransferParams);
    if (kind === 'remote_decode') return 'prefill';
    const { role, mode, lookup } = this.#config;
    const givesTickets = role !== 'prefill' && mode === 'bi' && lookup === 'ticket';
    return givesTickets && request.kvTransferParams !== null && kind !== 'cache_query' ? 'ticket' : null;
  }

  /** What the proxy carries to the peer: P's holds go to D (hop 2), D's tickets and leases to P (hop 4). */
  #describeHold(
    id: string,
    kind: HoldKind,
    blockIds: readonly number[],
    numTokens: number,
    durationMs: number,
  ): KvTransferParams {
    const isForDecode = kind === 'prefill';
    return {
      do_remote_prefill: isForDecode,
      do_remote_decode: !isForDecode,
      remote_block_ids: [blockIds],
      remote_engine_id: this.#config.engineId,
      remote_request_id: id,
      remote_host: this.#host,
      remote_port: this.#port,
      tp_size: 1,
      remote_num_tokens: numTokens,
      // vLLM's P sends null; its D sends seconds on its own clock.
      remote_blocks_expiry_time: isForDecode ? null : (this.#clock() + durationMs) / 1000,
      transfer_mode: 'pull',
      remote_lease_expires_in_ms: durationMs,
    };
  }
}

function failureOf({ failure }: FinishedPull): PullOutcome['failure'] {
  if (failure === null) return null;
  return failure === 'expired' ? 'lease_expired' : 'transfer_failed';
}
