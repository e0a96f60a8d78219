// What the layers of one engine hand each other: the plan of a step, its results, KV loads.

import type { FinishedStatus, Request } from './request.js';
import type { BlockHash, CacheQueryAnswer, KvTransferParams, PrefillStats } from './wire.js';

// ---------------------------------------------------------------------------------------------- one engine step

/** One request's share of a step. */
export interface ScheduledRequest {
  /** Read-only for the worker. Its `tokenIds` hold the tokens to run at [numComputedTokens, +numScheduledTokens). */
  readonly request: Request;
  /** Position of the first token to run in this step. */
  readonly numComputedTokens: number;
  readonly numScheduledTokens: number;
  /** Block table: block i holds positions [i * blockSize, (i + 1) * blockSize). */
  readonly blockIds: readonly number[];
  /** True if the last scheduled token is the request's last known one, so that a token is sampled. */
  readonly samples: boolean;
}

export interface SchedulerOutput {
  readonly scheduled: readonly ScheduledRequest[];
  readonly totalNumScheduledTokens: number;
  /** Answered in this pass, with zero scheduled tokens. */
  readonly cacheQueryAnswers: readonly CacheQueryAnswer[];
  readonly kvConnectorMetadata: KVConnectorMetadata | null;
}

/** A token's log probability and its alternatives, most likely first. */
export interface TokenLogprobs {
  readonly tokenId: number;
  readonly logprob: number;
  /** 1-based rank of the token among the vocabulary. */
  readonly rank: number;
  readonly top: readonly { readonly tokenId: number; readonly logprob: number }[];
}

export interface ModelRunnerOutput {
  /** Request id → the token sampled in this step. */
  readonly sampledTokenIds: ReadonlyMap<string, number>;
  readonly logprobs: ReadonlyMap<string, TokenLogprobs>;
  /** Request id → what this step says about its prompt: one entry a token from position `numComputedTokens` + 1 on. */
  readonly promptLogprobs: ReadonlyMap<string, readonly TokenLogprobs[]>;
  readonly kvConnectorOutput: KVConnectorOutput | null;
}

/** What one step means to the outside, per request. */
export interface EngineCoreOutput {
  readonly requestId: string;
  readonly newTokenIds: readonly number[];
  readonly newLogprobs: readonly TokenLogprobs[];
  /** Of every token of the prompt but the first, once, with the first token; null otherwise, and when nobody asked. */
  readonly promptLogprobs: readonly TokenLogprobs[] | null;
  /** Null while the request goes on. */
  readonly finished: FinishedStatus | null;
  readonly stopReason: number | string | null;
  readonly kvTransferParams: KvTransferParams | null;
  /** Present from the output that carries the first token on. */
  readonly prefillStats: PrefillStats | null;
  readonly cacheQueryAnswer: CacheQueryAnswer | null;
  /** A sentence for the client when `finished` is FINISHED_ERROR or FINISHED_IGNORED. */
  readonly error: string | null;
}

// ---------------------------------------------------------------------------------------------- KV connector

/** Where a peer's blocks can be read, from `kv_transfer_params`. */
export interface RemoteBlocks {
  readonly engineId: string;
  readonly host: string;
  readonly port: number;
  /** The owner's id of the held blocks; named in the notification that ends the hold. */
  readonly requestId: string;
}

/** One request's load: read these blocks, then notify. No blocks = notify only. */
export interface PullSpec {
  readonly requestId: string;
  readonly remote: RemoteBlocks;
  readonly remoteBlockIds: readonly number[];
  readonly localBlockIds: readonly number[];
  /** What each remote block must contain, checked before and after its copy. */
  readonly blockHashes: readonly BlockHash[];
}

/** A block that a load reads from one of this node's stores. */
export interface StoreBlockRead {
  readonly hash: BlockHash;
  readonly localBlockId: number;
  readonly tier: 'dedicated' | 'shared';
  /** Where the peer holds it too, should the store have lost it; null = nowhere. */
  readonly remoteBlockId: number | null;
}

/** One request's load of which at least one block comes from a store. */
export interface StoreLoadSpec {
  readonly requestId: string;
  /** The conversation, for the eviction policies of stores. */
  readonly chain: string;
  /** All blocks of the load, in the order of the prompt. */
  readonly localBlockIds: readonly number[];
  readonly blocks: readonly StoreBlockRead[];
  /** What comes from the peer, notified when all has ended; no blocks = notify only; null = there is no peer. */
  readonly pull: PullSpec | null;
}

export interface KVConnectorMetadata {
  readonly pulls: readonly PullSpec[];
  readonly storeLoads?: readonly StoreLoadSpec[];
}

/** What of a load came from stores. */
export interface StoreReads {
  /** Of the load's intact leading blocks. */
  readonly numBlocks: number;
  readonly dedicatedBytes: number;
  readonly sharedBytes: number;
}

/** How long bytes took from where. */
export interface ReadTiming {
  readonly source: 'peer' | 'dedicated' | 'shared';
  readonly numBytes: number;
  readonly ms: number;
}

/** End of one load, successful or not; always reported, also for an aborted request. */
export interface FinishedPull {
  readonly requestId: string;
  readonly numBlocks: number;
  /** From the peer. */
  readonly numBytes: number;
  readonly transferMs: number;
  /** Absent when no store was asked. */
  readonly stores?: StoreReads;
  readonly timings?: readonly ReadTiming[];
  /**
   * `expired`: the owner's hold had ended before it was read, and blocks went to others since. `stale`: it stood, yet
   * blocks were not what they should be. `failed`: the peer could not be read.
   */
  readonly failure: 'expired' | 'stale' | 'failed' | null;
}

/** A peer said that it is done with blocks held for it. */
export interface FinishedSend {
  /** What the peer was told as `remote_request_id`. */
  readonly requestId: string;
  /** Blocks that it read; 0 = it needed none. */
  readonly numBlocks: number;
}

/** Worker half → scheduler half, once a step. */
export interface KVConnectorOutput {
  readonly finishedSending: readonly FinishedSend[];
  readonly finishedRecving: readonly FinishedPull[];
  /** Local block ids whose load failed; reported no later than the pull they belong to. */
  readonly invalidBlockIds: readonly number[];
}
