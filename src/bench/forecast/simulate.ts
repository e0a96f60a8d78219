// Plays conversations through two caches by lengths alone: which tokens each mode would find, read, and compute again.
import type { KvLookup, KvTransferMode } from '../../config.js';
import { byBin, type Ledger, type LedgerBin, ledgerBins, recomputedBins } from '../../wire.js';
import type { UnplannedTurn } from '../arrivals.js';
import { ledgerOfCached, numTokensOnD } from '../closed-form.js';
import { NodeCache } from './node-cache.js';
import type { LengthConversation } from './turn-lengths.js';

export interface CacheSettings {
  /** Tokens per block. */
  readonly blockSize: number;
  /** Blocks that can hold KV; Infinity = nothing is ever evicted. */
  readonly numPrefillBlocks: number;
  readonly numDecodeBlocks: number;
  readonly kvRecomputeThreshold: number;
  readonly lookup: KvLookup;
  /** An answer of one token is P's alone. */
  readonly prefillAnswersFirstToken: boolean;
  /** P's cache is emptied before every round of turns. */
  readonly evictPrefillBetweenTurns: boolean;
}

/** Sums over all turns. */
export interface ModeForecast {
  readonly num_prompt_tokens: number;
  readonly num_computed_tokens: number;
  readonly num_recomputed_tokens: number;
  readonly ledger: Ledger;
  /** Blocks that move, whole ones. */
  readonly num_blocks_p_to_d: number;
  readonly num_blocks_d_to_p: number;
}

/**
 * Requests run one after the other in the order of `turns`, so nothing is held by others while one runs; beginnings that
 * conversations have in common are not seen.
 */
export function simulate(
  mode: KvTransferMode,
  conversations: readonly LengthConversation[],
  turns: readonly UnplannedTurn[],
  settings: CacheSettings,
): ModeForecast {
  const { blockSize, prefillAnswersFirstToken } = settings;
  const onP = new NodeCache(settings.numPrefillBlocks);
  const onD = new NodeCache(settings.numDecodeBlocks);
  const ledger = byBin(() => 0);
  let [numPToD, numDToP, round] = [0, 0, 1];
  for (const { conversation, turn } of turns) {
    if (settings.evictPrefillBetweenTurns && turn !== round) onP.clear();
    round = turn;
    const { numPromptTokens, numOutputTokens } = conversations[conversation]!.turns[turn - 1]!;
    const previous = conversations[conversation]!.turns[turn - 2] ?? null;
    const numOnD = onD.get(conversation);
    const cached = { numCachedOnP: onP.get(conversation) * blockSize, numCachedOnD: numOnD * blockSize };
    const own = ledgerOfCached({ ...settings, mode }, { numPromptTokens, previous }, cached);
    for (const bin of ledgerBins) ledger[bin] += own[bin];
    numDToP += Math.ceil(own.pulled_from_d / blockSize);
    const blocksOf = (numTokens: number) => Math.ceil(numTokens / blockSize);
    onP.run(conversation, blocksOf(numPromptTokens + 1), Math.floor(numPromptTokens / blockSize));
    if (prefillAnswersFirstToken && numOutputTokens === 1) continue;
    numPToD += blocksOf(numPromptTokens) - numOnD;
    const sequence = { numPromptTokens, numOutputTokens };
    onD.run(
      conversation,
      blocksOf(numPromptTokens + numOutputTokens),
      Math.floor(numTokensOnD(sequence) / blockSize),
    );
  }
  const sumOf = (bins: readonly LedgerBin[]) => bins.reduce((sum, bin) => sum + ledger[bin], 0);
  const numRecomputed = sumOf(recomputedBins);
  return {
    num_prompt_tokens: sumOf(ledgerBins),
    num_computed_tokens: ledger.new + numRecomputed,
    num_recomputed_tokens: numRecomputed,
    ledger,
    num_blocks_p_to_d: numPToD,
    num_blocks_d_to_p: numDToP,
  };
}
