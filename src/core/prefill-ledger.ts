// The ledger's arithmetic: which bin each token of a prompt lies in, first as P knows it, then as D completes it.
import { VllmPdError } from '../errors.js';
import {
  byBin,
  type Ledger,
  type LedgerBin,
  ledgerBins,
  type PrefillStats,
  recomputedBins,
} from '../wire.js';
import type { KnownTokens } from './token-history.js';

/** What a node knows of one prompt's prefill. All ranges begin where the one before ends. */
export interface PrefillFacts {
  readonly numPromptTokens: number;
  /** Tokens found in this node's own cache. */
  readonly numLocalTokens: number;
  /** Tokens behind these that a load from D was started for… */
  readonly numExternalTokens: number;
  /** …and how many of them arrived. */
  readonly numArrivedTokens: number;
  /** Of these, how many came from stores of this node. */
  readonly numStoreTokens?: number;
  /** Why the others did not. */
  readonly failure: 'lease_expired' | 'transfer_failed' | null;
  /** End of what D offered, from position 0; null = not asked. */
  readonly numRemoteTokens: number | null;
  /** The prompt ends with a block that is cached here but may not be hit, as it has the last token. */
  readonly endsInCachedBlock: boolean;
  readonly blockSize: number;
  readonly known: KnownTokens;
}

/** Cuts [begin, end) into bins, one behind the other; a bin that would end before the cut so far gets nothing. */
class Cuts {
  readonly counts: Partial<Record<LedgerBin, number>> = {};
  readonly #end: number;
  position: number;

  constructor(begin: number, end: number) {
    this.position = begin;
    this.#end = end;
  }

  upTo(end: number, bin: LedgerBin): void {
    const numTokens = Math.min(end, this.#end) - this.position;
    if (numTokens <= 0) return;
    this.counts[bin] = (this.counts[bin] ?? 0) + numTokens;
    this.position += numTokens;
  }
}

const emptyLedger: Ledger = byBin(() => 0);

export function sumBins(ledger: Ledger, bins: readonly LedgerBin[] = ledgerBins): number {
  return bins.reduce((sum, bin) => sum + ledger[bin], 0);
}

/** The prompt as the node that prefilled it sees it; `new` is a suffix of the prompt. */
export function prefillLedger(facts: PrefillFacts): Ledger {
  const { numPromptTokens, numLocalTokens, numExternalTokens, numRemoteTokens, known } = facts;
  const cuts = new Cuts(0, numPromptTokens);
  cuts.upTo(numLocalTokens, 'local_hit');
  // Counts, not places: peer and stores may take turns.
  cuts.upTo(numLocalTokens + facts.numArrivedTokens - (facts.numStoreTokens ?? 0), 'pulled_from_d');
  cuts.upTo(numLocalTokens + facts.numArrivedTokens, 'pulled_from_store');
  cuts.upTo(numLocalTokens + numExternalTokens, facts.failure ?? 'transfer_failed');
  if (numRemoteTokens !== null) {
    // Behind a load only whole blocks can have been left out on purpose: a part of one cannot be checked.
    const end =
      numExternalTokens === 0 ? numRemoteTokens : numRemoteTokens - (numRemoteTokens % facts.blockSize);
    cuts.upTo(Math.min(end, numPromptTokens - 1), 'below_threshold');
  }
  if (facts.endsInCachedBlock && cuts.position === numPromptTokens - facts.blockSize) {
    cuts.upTo(numPromptTokens, 'last_token');
  }
  cuts.upTo(known.numFullBlockTokens, 'evicted');
  cuts.upTo(known.numTokens, 'partial_block');
  cuts.upTo(numPromptTokens, 'new');
  return { ...emptyLedger, ...cuts.counts };
}

/**
 * Takes out of `new` what the node that generates knows better: it had KV for these tokens, or the prompt left the
 * session's previous sequence where it had other ones. `numRemoteTokens` as in `PrefillFacts`.
 */
export function completeLedger(ledger: Ledger, numRemoteTokens: number | null, known: KnownTokens): Ledger {
  const numPromptTokens = sumBins(ledger);
  const cuts = new Cuts(numPromptTokens - ledger.new, numPromptTokens);
  if (numRemoteTokens === null) {
    cuts.upTo(known.numTokens, 'generated_on_d');
  } else {
    cuts.upTo(known.numFullBlockTokens, 'evicted');
    cuts.upTo(known.numTokens, 'partial_block');
  }
  // What the prompt has in common with the previous sequence is known, so this begins where the two part.
  if (known.previous) cuts.upTo(known.previous.numTokens, 'template_mismatch');
  cuts.upTo(numPromptTokens, 'new');
  const completed: Record<LedgerBin, number> = { ...ledger, new: 0 };
  for (const bin of ledgerBins) completed[bin] += cuts.counts[bin] ?? 0;
  return completed;
}

/** Bytes and times of the node's own load, and what D ran itself; all that is not in the ledger. */
export type PrefillCosts = Omit<
  PrefillStats,
  'num_prompt_tokens' | 'num_computed_tokens' | 'num_recomputed_tokens' | 'ledger'
>;

/** Throws INTERNAL unless the bins sum to the prompt. */
export function toPrefillStats(numPromptTokens: number, ledger: Ledger, costs: PrefillCosts): PrefillStats {
  const sum = sumBins(ledger);
  if (sum !== numPromptTokens) {
    throw new VllmPdError(
      'INTERNAL',
      `Expected the ledger's bins to sum to ${numPromptTokens} prompt tokens but they sum to ${sum}`,
    );
  }
  const numRecomputedTokens = sumBins(ledger, recomputedBins);
  return {
    num_prompt_tokens: numPromptTokens,
    num_computed_tokens: ledger.new + numRecomputedTokens,
    num_recomputed_tokens: numRecomputedTokens,
    ledger,
    ...costs,
  };
}
