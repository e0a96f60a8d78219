// Objects that cross process boundaries: KV transfer parameters, cache queries, the ledger. Names are never translated.

/** Hex SHA-256 of a block's tokens and everything before them; the same on every node with the same seed. */
export type BlockHash = string;

// ---------------------------------------------------------------------------------------------- wire objects

/**
 * `kv_transfer_params` as vLLM's proxies and nodes exchange them; names are vLLM's and are never translated.
 * Fields behind the blank line are this project's additions; a vLLM node ignores them.
 */
export interface KvTransferParams {
  readonly do_remote_prefill?: boolean;
  readonly do_remote_decode?: boolean;
  readonly remote_engine_id?: string | null;
  /** Logical block ids, one list per KV-cache group; this engine has one group. */
  readonly remote_block_ids?: readonly (readonly number[])[] | null;
  /** The owner's id of what it holds: a finished request, or the lease of a cache query. */
  readonly remote_request_id?: string | null;
  readonly remote_host?: string | null;
  readonly remote_port?: number | null;
  readonly tp_size?: number;
  /** Tokens whose KV the owner holds. */
  readonly remote_num_tokens?: number;
  /** On the owner's own monotonic clock, in seconds; informational here, reads are verified instead. */
  readonly remote_blocks_expiry_time?: number | null;
  readonly transfer_mode?: 'pull';
  /** P's cached prompt tokens, local and pulled, for D's `usage.prompt_tokens_details.cached_tokens`. */
  readonly remote_prefill_cached_tokens?: number;

  /** How long the owner will hold the blocks from when it said so, in ms. */
  readonly remote_lease_expires_in_ms?: number;
  /** Blocks of the prompt that the owner knows in the shared store: named, so that they need not be sent. */
  readonly remote_shared_block_hashes?: readonly BlockHash[];
  /** With a ticket, from a node that keeps its answers' ids: those of the answer whose blocks it holds. */
  readonly remote_answer_token_ids?: readonly number[];
  /** The request is a cache query; `lease` asks for the found blocks to be held. */
  readonly cache_query?: boolean;
  readonly lease?: boolean;
  /** P's part of the ledger, for D to complete. */
  readonly remote_prefill_stats?: PrefillStats;
  /** Shows that P said this about caching, and of which prompt, where nodes share a key. */
  readonly remote_claims_mac?: string;
  /** To P: sample with the request's own parameters, end after one token and say which it was. */
  readonly return_first_token?: boolean;
  /** To D: the answer's first token, as P sampled it; D goes on behind it. */
  readonly remote_first_token?: RemoteFirstToken | null;
}

/** The first token of an answer on its way from P to D. */
export interface RemoteFirstToken {
  readonly token_id: number;
  /** Null when the request asked for none. */
  readonly logprobs?: RemoteLogprobs | null;
  /** The client has it already, as P wrote it: D is not to say it again. */
  readonly streamed?: boolean;
  /** `created` of the answer's chunks, which is the same in all of them. */
  readonly created?: number;
}

/** `object` of what P says behind the first token's chunks, or in place of an answer. */
export const handOverObject = 'kv_transfer.hand_over';

/** Where an answer goes on that P has begun. */
export interface HandOver {
  readonly object: typeof handOverObject;
  /** The answer's. */
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly kv_transfer_params: KvTransferParams;
  /** The prompt as P encoded it; null when it came as ids. */
  readonly prompt_token_ids: readonly number[] | null;
}

export interface RemoteLogprobs {
  readonly logprob: number;
  /** 1-based. */
  readonly rank: number;
  /** Most likely first. */
  readonly top: readonly { readonly token_id: number; readonly logprob: number }[];
}

/** Storage that a cached block lies in. */
export type Tier = 'local' | 'dedicated' | 'shared';

/** Answer to a cache query, as `POST /v1/cache_query` returns it. */
export interface CacheQueryAnswer {
  readonly object: 'cache_query';
  readonly engine_id: string;
  readonly request_id: string;
  readonly block_size: number;
  readonly num_prompt_tokens: number;
  /** Tokens of the prompt's longest cached prefix: full blocks only. */
  readonly num_tokens: number;
  readonly num_blocks: number;
  readonly block_ids: readonly number[];
  readonly block_hashes: readonly BlockHash[];
  /** Of `block_ids`: those that can be used or leased as they are. */
  readonly tier: Tier;
  /** Storage of each block of the longest prefix that this node could use without computing it; local blocks first. */
  readonly block_tiers?: readonly (readonly Tier[])[];
  readonly lease: { readonly id: string; readonly expires_in_ms: number } | null;
  /** What a proxy hands to P unchanged, so that P may pull these blocks; null when nothing was leased. */
  readonly kv_transfer_params: KvTransferParams | null;
  /** The prompt as this node encoded it, when asked for: the next hops need not encode it again. */
  readonly prompt_token_ids?: readonly number[];
}

/** The answer when blocks were not asked for (`return_blocks: false`). */
export type BriefCacheQueryAnswer = Omit<CacheQueryAnswer, 'block_ids' | 'block_hashes' | 'block_tiers'>;

// ---------------------------------------------------------------------------------------------- the ledger

/** Bins of tokens that were computed although they had been computed before somewhere in the system, by reason. */
export const recomputedBins = [
  'generated_on_d',
  'evicted',
  'partial_block',
  'below_threshold',
  'lease_expired',
  'template_mismatch',
  'transfer_failed',
  'last_token',
] as const;

/** Bins of prompt tokens; each token of a turn's prompt lies in exactly one. */
export const ledgerBins = [
  // not computed
  'local_hit',
  'pulled_from_d',
  'pulled_from_store',
  // computed for the first time
  'new',
  ...recomputedBins,
] as const;

export type LedgerBin = (typeof ledgerBins)[number];

export type Ledger = Readonly<Record<LedgerBin, number>>;

/** One value for each bin, in their order. */
export function byBin<T>(valueFor: (bin: LedgerBin) => T): Record<LedgerBin, T> {
  return Object.fromEntries(ledgerBins.map((bin) => [bin, valueFor(bin)])) as Record<LedgerBin, T>;
}

/** Ways of KV, by where from and to: `p` and `d` are the nodes that prefill and decode. */
export const kvHops = [
  'd_to_p',
  'p_to_d',
  'dedicated_to_p',
  'shared_to_p',
  'dedicated_to_d',
  'shared_to_d',
] as const;

export type KvHop = (typeof kvHops)[number];

/** What it was thought to cost to read what P could have read, before it did or did not; for judging the choice. */
export interface WirePullEstimate {
  readonly num_tokens: number;
  readonly num_pulled_tokens: number;
  readonly pull_ms: number;
  readonly recompute_ms: number;
}

/** How a prompt's tokens came to have KV on the node that prefilled it. Also a wire object: `prefill_stats`. */
export interface PrefillStats {
  readonly num_prompt_tokens: number;
  /** Tokens run through the prefill node's model: `new` plus every recomputed bin. */
  readonly num_computed_tokens: number;
  readonly num_recomputed_tokens: number;
  readonly ledger: Ledger;
  /** End of what the prefill node was offered by D (tokens from position 0); 0 = nothing; null = D was not asked. */
  readonly num_remote_tokens: number | null;
  readonly kv_bytes_d_to_p: number;
  readonly kv_transfer_ms_d_to_p: number;
  /** Filled in by D: what the hand-over moved. */
  readonly kv_bytes_p_to_d: number;
  readonly kv_transfer_ms_p_to_d: number;
  /** Filled in by D: prompt tokens that D itself ran through its model (none after a full hand-over with P's first token, 1 without it). */
  readonly num_decode_computed_tokens: number;
  /** Bytes by hop; one that moved nothing is absent. */
  readonly kv_hop_bytes?: Readonly<Partial<Record<KvHop, number>>>;
  /** Bytes read from a peer although the reader could have read them from the shared store. */
  readonly two_hop_bytes?: number;
  /** Null when P could have read nothing. */
  readonly pull_estimate?: WirePullEstimate | null;
}
