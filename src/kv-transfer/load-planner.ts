// Plans every request's load over peer and stores, remembers what was planned, and learns from how loads went.
import type { KvTransferConfig } from '../config.js';
import type { FinishedPull, PullSpec, StoreBlockRead, StoreLoadSpec } from '../outputs.js';
import type { Request } from '../request.js';
import type { BlockHash } from '../wire.js';
import { TransferCosts } from './cost-model.js';
import { emptyPlan, type LoadPlan, planLoad } from './load-plan.js';
import type { Offer } from './offer.js';
import { classifyTransfer } from './params.js';
import type { BlockStores, StoreLookups } from './store-lookups.js';

export interface LoadPlannerOptions {
  readonly blockSize: number;
  readonly blockBytes: number;
  readonly minTokens: KvTransferConfig['kvRecomputeThreshold'];
  /** Default true. */
  readonly hopPlanner?: boolean;
  readonly costs?: TransferCosts;
  /** Null or absent = this node has none. */
  readonly stores?: { readonly blocks: BlockStores; readonly lookups: StoreLookups } | null;
}

/** Bytes that came to this node since start, by where from. */
export interface HopBytes {
  readonly peer: number;
  readonly dedicated: number;
  readonly shared: number;
  /** Of those from the peer, what the shared store had too. */
  readonly twoHop: number;
}

export class LoadPlanner {
  readonly #options: LoadPlannerOptions;
  readonly #costs: TransferCosts;
  readonly #plans = new Map<string, LoadPlan>();
  #hops: HopBytes = { peer: 0, dedicated: 0, shared: 0, twoHop: 0 };

  constructor(options: LoadPlannerOptions) {
    this.#options = options;
    this.#costs = options.costs ?? new TransferCosts();
  }

  get hops(): HopBytes {
    return this.#hops;
  }

  /** Asks the stores for what is not cached here, and takes the peer's word for what it names. */
  requestAdded(request: Request, numLocalTokens: number): void {
    const { stores, blockSize } = this.#options;
    if (!stores) return;
    const end = this.#numStorableTokens(request) / blockSize;
    const missing = request.blockHashes.slice(numLocalTokens / blockSize, end);
    const named = new Set(request.kvTransferParams?.remote_shared_block_hashes ?? []);
    stores.blocks.believe(missing.filter((hash) => named.has(hash)));
    const unknown = missing.filter((hash) => !named.has(hash));
    stores.lookups.begin(request.requestId, unknown);
  }

  /** Null while the stores are being asked. */
  plan(request: Request, numLocalTokens: number, offer: Offer | null): LoadPlan | null {
    const { stores, blockSize, blockBytes, minTokens, hopPlanner = true } = this.#options;
    if (stores?.lookups.isPending(request.requestId)) return null;
    const plan = planLoad({
      blockSize,
      blockBytes,
      numLocalTokens,
      numPeerTokens: offer?.numUsableTokens ?? 0,
      numStorableTokens: stores ? this.#numStorableTokens(request) : 0,
      tiersOf: (i) => stores?.blocks.tiersOf(request.blockHashes[i]!) ?? [],
      minTokens: offer?.minTokens ?? minTokens,
      hopPlanner,
      costs: this.#costs,
    });
    this.#plans.set(request.requestId, plan);
    return plan;
  }

  planned(requestId: string): LoadPlan {
    return this.#plans.get(requestId) ?? emptyPlan;
  }

  /**
   * The load as the worker half runs it. `whole`: all of it as if it came from the peer, whose block ids are there as far
   * as it has them; null = there is no peer.
   */
  split(
    request: Request,
    localBlockIds: readonly number[],
    blockHashes: readonly BlockHash[],
    whole: PullSpec | null,
  ): { readonly pull: PullSpec } | { readonly storeLoad: StoreLoadSpec } {
    const { sources } = this.planned(request.requestId);
    const isFromPeer = (_: unknown, i: number) => sources[i] === 'peer';
    if (whole && sources.every(isFromPeer)) return { pull: whole };
    const blocks = sources.flatMap((tier, i): StoreBlockRead[] => {
      if (tier === 'peer') return [];
      const remoteBlockId = whole?.remoteBlockIds[i] ?? null;
      return [{ hash: blockHashes[i]!, localBlockId: localBlockIds[i]!, tier, remoteBlockId }];
    });
    const pull = whole && {
      ...whole,
      remoteBlockIds: whole.remoteBlockIds.filter(isFromPeer),
      localBlockIds: localBlockIds.filter(isFromPeer),
      blockHashes: blockHashes.filter(isFromPeer),
    };
    const { requestId } = request;
    return { storeLoad: { requestId, chain: chainOf(request), localBlockIds, blocks, pull } };
  }

  /** Bytes that came from the peer although the shared store had them. */
  loadEnded(pull: FinishedPull): number {
    const { blockBytes } = this.#options;
    const { isTwoHop } = this.planned(pull.requestId);
    const numTwoHopBlocks = isTwoHop.slice(0, pull.numBlocks).filter(Boolean).length;
    const twoHopBytes = Math.min(pull.numBytes, numTwoHopBlocks * blockBytes);
    this.#hops = {
      peer: this.#hops.peer + pull.numBytes,
      dedicated: this.#hops.dedicated + (pull.stores?.dedicatedBytes ?? 0),
      shared: this.#hops.shared + (pull.stores?.sharedBytes ?? 0),
      twoHop: this.#hops.twoHop + twoHopBytes,
    };
    const timings = pull.timings ?? [
      { source: 'peer' as const, numBytes: pull.numBytes, ms: pull.transferMs },
    ];
    if (pull.failure === null) {
      for (const { source, numBytes, ms } of timings) this.#costs.observeRead(source, numBytes, ms);
    }
    return twoHopBytes;
  }

  /** Blocks of a prompt that peers of the same shared store need not be sent. */
  sharedHashes(request: Request): readonly BlockHash[] {
    const { stores, blockSize, hopPlanner = true } = this.#options;
    if (!stores || !hopPlanner) return [];
    const hashes = request.blockHashes.slice(0, Math.floor(request.numPromptTokens / blockSize));
    return hashes.filter((hash) => stores.blocks.tiersOf(hash).includes('shared'));
  }

  forget(requestId: string): void {
    this.#plans.delete(requestId);
    this.#options.stores?.lookups.forget(requestId);
  }

  /** Stores have full blocks. Only D, which is handed a whole prompt, steps back from it for its last token. */
  #numStorableTokens(request: Request): number {
    const { blockSize } = this.#options;
    const isHandOver = classifyTransfer(request.kvTransferParams) === 'remote_prefill';
    const limit = isHandOver ? request.numPromptTokens : request.numPromptTokens - 1;
    return Math.floor(limit / blockSize) * blockSize;
  }
}

/** What stands for the conversation where the client named none: its beginning. */
export function chainOf({ sessionId, blockHashes }: Pick<Request, 'sessionId' | 'blockHashes'>): string {
  return sessionId ?? blockHashes[0] ?? '';
}
