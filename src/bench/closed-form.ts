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
  const { numPromptTokens, previous, evicted } = turn;
  if (!previous) return { ...nothing, new: numPromptTokens };
  const fullBlocks = (numTokens: number) => numTokens - (numTokens % config.blockSize);
  const numOnD = previous.numPromptTokens + previous.numOutputTokens - 1;
  const numOnP = fullBlocks(previous.numPromptTokens);
  const numLocal = evicted ? 0 : numOnP;
  const base = { ...nothing, local_hit: numLocal, new: numPromptTokens - numOnD };
  if (config.mode === 'uni') {
    return {
      ...base,
      evicted: numOnP - numLocal,
      partial_block: previous.numPromptTokens - numOnP,
      generated_on_d: previous.numOutputTokens - 1,
    };
  }
  const numOffered = config.lookup === 'ticket' ? numOnD : fullBlocks(numOnD);
  const numExternal = numOffered - numLocal;
  const pulls = numExternal > 0 && numExternal >= config.kvRecomputeThreshold;
  return {
    ...base,
    pulled_from_d: pulls ? numExternal : 0,
    below_threshold: pulls ? 0 : numExternal,
    partial_block: numOnD - numOffered,
  };
}
