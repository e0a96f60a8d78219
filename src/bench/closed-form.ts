// What the ledger of a turn must be, from lengths alone: the arithmetic that a measured run is checked against.
import type { KvLookup, KvTransferMode } from '../config.js';
import type { Ledger } from '../wire.js';

export interface ClosedFormConfig {
  /** Tokens per block. */
  readonly blockSize: number;
  readonly kvRecomputeThreshold: number;
  readonly mode: KvTransferMode;
  readonly lookup: KvLookup;
}

export interface TurnLengths {
  readonly numPromptTokens: number;
  /** The turn before, whose prompt and answer this prompt begins with; null for the first turn. */
  readonly previous: { readonly numPromptTokens: number; readonly numOutputTokens: number } | null;
  /** The prefill node's cache was emptied since the turn before. */
  readonly evicted: boolean;
}

const nothing: Ledger = {
  local_hit: 0,
  pulled_from_d: 0,
  pulled_from_store: 0,
  new: 0,
  generated_on_d: 0,
  evicted: 0,
  partial_block: 0,
  below_threshold: 0,
  lease_expired: 0,
  template_mismatch: 0,
  transfer_failed: 0,
  last_token: 0,
};

/**
 * The ledger of a turn of a conversation that shares no block with another one, on nodes whose caches hold everything.
 *
 * P has full blocks of the previous prompt; D has KV for the previous prompt and all of its answer but the last
 * token, which was sampled and never fed. D offers full blocks (query) or everything (ticket).
 */
export function expectedLedger(config: ClosedFormConfig, turn: TurnLengths): Ledger {
  const { previous, evicted } = turn;
  const numCachedOnP = previous && !evicted ? fullBlocks(previous.numPromptTokens, config.blockSize) : 0;
  return ledgerOfCached(config, turn, {
    numCachedOnP,
    numCachedOnD: previous ? fullBlocks(numTokensOnD(previous), config.blockSize) : 0,
  });
}

/** Tokens of the turn's history that are still cached, in full blocks from its beginning. */
export interface CachedHistory {
  readonly numCachedOnP: number;
  readonly numCachedOnD: number;
}

/** The same for caches that may have lost any end of the history. */
export function ledgerOfCached(
  config: ClosedFormConfig,
  { numPromptTokens, previous }: Pick<TurnLengths, 'numPromptTokens' | 'previous'>,
  { numCachedOnP, numCachedOnD }: CachedHistory,
): Ledger {
  if (!previous) return { ...nothing, new: numPromptTokens };
  const numOnD = numTokensOnD(previous);
  const numFullOnD = fullBlocks(numOnD, config.blockSize);
  const numFullOnP = fullBlocks(previous.numPromptTokens, config.blockSize);
  const base = { ...nothing, local_hit: numCachedOnP, new: numPromptTokens - numOnD };
  if (config.mode === 'uni') {
    return {
      ...base,
      evicted: numFullOnP - numCachedOnP,
      partial_block: previous.numPromptTokens - numFullOnP,
      generated_on_d: previous.numOutputTokens - 1,
    };
  }
  // A ticket holds the partial block too, as long as it holds anything.
  const numOffered = config.lookup === 'ticket' && numCachedOnD === numFullOnD ? numOnD : numCachedOnD;
  const numExternal = Math.max(0, numOffered - numCachedOnP);
  const pulls = numExternal > 0 && numExternal >= config.kvRecomputeThreshold;
  const numReachable = numCachedOnP + numExternal;
  const numPartial = Math.min(numOnD - numReachable, numOnD - numFullOnD);
  return {
    ...base,
    pulled_from_d: pulls ? numExternal : 0,
    below_threshold: pulls ? 0 : numExternal,
    partial_block: numPartial,
    evicted: numOnD - numReachable - numPartial,
  };
}

export function fullBlocks(numTokens: number, blockSize: number): number {
  return numTokens - (numTokens % blockSize);
}

/** Of a turn that is over: its last token was sampled and never fed. */
export function numTokensOnD(turn: {
  readonly numPromptTokens: number;
  readonly numOutputTokens: number;
}): number {
  return turn.numPromptTokens + turn.numOutputTokens - 1;
}
