// A request as every layer below the server knows it, and the parameters it came with.
import type { BlockHash, KvTransferParams, PrefillStats } from './wire.js';

export type RequestStatus =
  | 'WAITING'
  | 'WAITING_FOR_REMOTE_KVS'
  | 'RUNNING'
  | 'PREEMPTED'
  | 'FINISHED_STOPPED'
  | 'FINISHED_LENGTH_CAPPED'
  /** P has sampled the first token; the answer goes on elsewhere. */
  | 'FINISHED_HANDED_OVER'
  | 'FINISHED_ABORTED'
  | 'FINISHED_IGNORED'
  | 'FINISHED_ERROR';

export type FinishedStatus = Extract<RequestStatus, `FINISHED_${string}`>;

export interface SamplingParams {
  readonly maxTokens: number;
  readonly minTokens: number;
  /** 0 = greedy. */
  readonly temperature: number;
  readonly topP: number;
  /** 0 = all. */
  readonly topK: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly seed: number | null;
  readonly ignoreEos: boolean;
  /** Stop strings; matched by the engine on detokenised text. */
  readonly stop: readonly string[];
  readonly stopTokenIds: readonly number[];
  readonly includeStopStrInOutput: boolean;
  readonly skipSpecialTokens: boolean;
  /** How many alternatives to report per token; null = no logprobs at all, 0 = only the sampled token. */
  readonly logprobs: number | null;
  /** Alternatives to report instead of the most likely ones; null = the most likely ones. */
  readonly logprobTokenIds: readonly number[] | null;
  /** How many alternatives to report per token of the prompt; null = no logprobs of the prompt, 0 = only its own tokens. */
  readonly promptLogprobs: number | null;
  /** Added to the logits before sampling: token id → bias. */
  readonly logitBias: ReadonlyMap<number, number>;
  /** Only these are sampled; null = all. */
  readonly allowedTokenIds: readonly number[] | null;
  /** Token sequences whose last token is not sampled behind the others. */
  readonly badWordsTokenIds: readonly (readonly number[])[];
}

export const defaultSamplingParams: SamplingParams = {
  maxTokens: 16,
  minTokens: 0,
  temperature: 1,
  topP: 1,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  seed: null,
  ignoreEos: false,
  stop: [],
  stopTokenIds: [],
  includeStopStrInOutput: false,
  skipSpecialTokens: true,
  logprobs: null,
  logprobTokenIds: null,
  promptLogprobs: null,
  logitBias: new Map(),
  allowedTokenIds: null,
  badWordsTokenIds: [],
};

/** How many alternatives are reported per token; null = no logprobs at all. */
export function numAlternatives({ logprobs, logprobTokenIds }: SamplingParams): number | null {
  return logprobs === null ? null : (logprobTokenIds?.length ?? logprobs);
}

export interface RequestInit {
  readonly requestId: string;
  readonly promptTokenIds: readonly number[];
  readonly samplingParams: SamplingParams;
  /** End-of-sequence ids; generation stops there unless `ignoreEos`. Of the first vLLM gives no `stop_reason`. */
  readonly eosTokenIds?: readonly number[];
  readonly cacheSalt?: string | null;
  /** Conversation identity, if the client gave one. */
  readonly sessionId?: string | null;
  readonly kvTransferParams?: KvTransferParams | null;
  /** Lower goes first, where the scheduler looks at it. Default 0. */
  readonly priority?: number;
  /** The answer's first token, when a peer has sampled it already. */
  readonly firstTokenId?: number | null;
  /** Set for a cache query: the scheduler answers it with zero scheduled tokens. */
  readonly cacheQuery?: CacheQueryOptions | null;
}

export interface CacheQueryOptions {
  /** Take a lease on the blocks found, so that they stay until read, released or expired. */
  readonly lease: boolean;
}

/** State of one request. Mutated by the scheduler only; the worker reads it. */
export class Request {
  readonly requestId: string;
  /** Prompt followed by what was sampled so far. */
  readonly tokenIds: number[];
  readonly numPromptTokens: number;
  /** Output tokens that a peer has sampled: 0 or 1. */
  readonly numRemoteOutputTokens: number;
  readonly samplingParams: SamplingParams;
  readonly eosTokenIds: readonly number[];
  readonly cacheSalt: string | null;
  readonly sessionId: string | null;
  readonly kvTransferParams: KvTransferParams | null;
  readonly cacheQuery: CacheQueryOptions | null;
  readonly priority: number;
  /** Hashes of the full blocks of `tokenIds`, extended as tokens are appended. */
  readonly blockHashes: BlockHash[] = [];
  readonly arrivalTimeMs: number;

  status: RequestStatus = 'WAITING';
  /** Tokens whose KV exists on this node (or is scheduled to exist after the current step). */
  numComputedTokens = 0;
  numPreemptions = 0;
  /** Token id or null that ended the request, as vLLM's `stop_reason`. */
  stopReason: number | string | null = null;
  /** How the prompt's tokens came to be here; set when the prefill is complete. */
  prefillStats: PrefillStats | null = null;

  constructor(init: RequestInit, arrivalTimeMs: number) {
    this.requestId = init.requestId;
    // Those of a cache query never grow, so they need not be copied.
    this.tokenIds = init.cacheQuery ? (init.promptTokenIds as number[]) : [...init.promptTokenIds];
    if (init.firstTokenId != null) this.tokenIds.push(init.firstTokenId);
    this.numPromptTokens = init.promptTokenIds.length;
    this.numRemoteOutputTokens = this.tokenIds.length - this.numPromptTokens;
    this.samplingParams = init.samplingParams;
    this.eosTokenIds = init.eosTokenIds ?? [];
    this.cacheSalt = init.cacheSalt ?? null;
    this.sessionId = init.sessionId ?? null;
    this.kvTransferParams = init.kvTransferParams ?? null;
    this.priority = init.priority ?? 0;
    this.cacheQuery = init.cacheQuery ?? null;
    this.arrivalTimeMs = arrivalTimeMs;
  }

  get numTokens(): number {
    return this.tokenIds.length;
  }

  get numOutputTokens(): number {
    return this.tokenIds.length - this.numPromptTokens;
  }

  /** P was asked for the prompt's KV and for the first token; the others are D's. */
  get endsWithFirstToken(): boolean {
    return (
      this.kvTransferParams?.do_remote_decode === true && this.kvTransferParams.return_first_token === true
    );
  }

  /** Log probabilities of its prompt are wanted and not all known yet: tokens whose KV is found or loaded have none. */
  get needsPromptLogprobs(): boolean {
    return this.samplingParams.promptLogprobs !== null && this.prefillStats === null;
  }

  get isFinished(): boolean {
    return this.status.startsWith('FINISHED_');
  }
}
