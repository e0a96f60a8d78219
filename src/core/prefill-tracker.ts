// Follows each request's first prefill from admission to its last prompt token, and makes its statistics.
import type { PullOutcome } from '../kv-transfer/connector.js';
import type { PullEstimate } from '../kv-transfer/load-plan.js';
import type { Request } from '../request.js';
import type { KvHop, PrefillStats } from '../wire.js';
import type { BlockHasher } from './block-hash.js';
import {
  completeLedger,
  type PrefillCosts,
  type PrefillFacts,
  prefillLedger,
  sumBins,
  toPrefillStats,
} from './prefill-ledger.js';
import { TokenHistory } from './token-history.js';

/** What `PrefillFacts` needs to know of an admission. */
export type AdmissionFacts = Pick<
  PrefillFacts,
  'numLocalTokens' | 'numExternalTokens' | 'numRemoteTokens' | 'endsInCachedBlock'
> & {
  /** Absent or null = there was nothing to read. */
  readonly pullEstimate?: PullEstimate | null;
};

interface Prefill {
  facts: PrefillFacts & AdmissionFacts;
  outcome: PullOutcome | null;
}

export class PrefillTracker {
  readonly #hasher: BlockHasher;
  readonly #history: TokenHistory;
  readonly #prefills = new Map<string, Prefill>();

  constructor(hasher: BlockHasher) {
    this.#hasher = hasher;
    this.#history = new TokenHistory(hasher);
  }

  /** At the first admission only: what happens again after a preemption is not in the ledger. */
  admitted(request: Request, admission: AdmissionFacts): void {
    const facts = {
      ...admission,
      numPromptTokens: request.numPromptTokens,
      numArrivedTokens: 0,
      failure: null,
      blockSize: this.#hasher.blockSize,
      known: this.#history.recall(request),
    };
    this.#prefills.set(request.requestId, { facts, outcome: null });
  }

  loadEnded(request: Request, outcome: PullOutcome, numArrivedTokens: number): void {
    const prefill = this.#prefills.get(request.requestId)!;
    prefill.outcome = outcome;
    const numStoreTokens = Math.min(
      numArrivedTokens,
      (outcome.stores?.numBlocks ?? 0) * this.#hasher.blockSize,
    );
    prefill.facts = { ...prefill.facts, numArrivedTokens, numStoreTokens, failure: outcome.failure };
  }

  /** The prompt is computed for the first time. */
  completed(request: Request): PrefillStats {
    const prefill = this.#prefills.get(request.requestId)!;
    const stats = request.kvTransferParams?.do_remote_prefill
      ? decodeNodeStats(request, prefill)
      : prefillNodeStats(request, prefill);
    this.#history.recordTokens(request, request.numPromptTokens);
    return stats;
  }

  /** The request leaves, with KV for its first `numTokens`. */
  ended(request: Request, numTokens: number): void {
    this.#prefills.delete(request.requestId);
    if (numTokens === 0) return;
    this.#history.recordTokens(request, numTokens);
    // One that was cut short says less of the session than the turn before it.
    if (request.prefillStats) this.#history.recordSequence(request, numTokens);
  }
}

function prefillNodeStats(request: Request, { facts, outcome }: Prefill): PrefillStats {
  const own = prefillLedger(facts);
  // P leaves the rest to D; without a D the ledger is completed here.
  const isHandedOver = request.kvTransferParams?.do_remote_decode === true;
  const ledger = isHandedOver ? own : completeLedger(own, facts.numRemoteTokens, facts.known);
  return toPrefillStats(facts.numPromptTokens, ledger, {
    num_remote_tokens: facts.numRemoteTokens,
    kv_bytes_d_to_p: outcome?.numBytes ?? 0,
    kv_transfer_ms_d_to_p: outcome?.transferMs ?? 0,
    kv_bytes_p_to_d: 0,
    kv_transfer_ms_p_to_d: 0,
    num_decode_computed_tokens: 0,
    ...hopCosts(outcome, 'd', 'p'),
    ...estimateOf(facts),
  });
}

function decodeNodeStats(request: Request, { facts, outcome }: Prefill): PrefillStats {
  const { numPromptTokens, known } = facts;
  const numReadyTokens = facts.numLocalTokens + facts.numArrivedTokens;
  const handOver = {
    kv_bytes_p_to_d: outcome?.numBytes ?? 0,
    kv_transfer_ms_p_to_d: outcome?.transferMs ?? 0,
    // A prompt that is there as a whole still has its last token run for its logits, unless P has sampled from these.
    num_decode_computed_tokens:
      numPromptTokens - Math.min(numReadyTokens, numPromptTokens - 1 + request.numRemoteOutputTokens),
  };
  const hops = hopCosts(outcome, 'p', 'd');
  const remote = statsFromP(request);
  if (remote) {
    const costs: PrefillCosts = {
      num_remote_tokens: remote.num_remote_tokens,
      kv_bytes_d_to_p: remote.kv_bytes_d_to_p,
      kv_transfer_ms_d_to_p: remote.kv_transfer_ms_d_to_p,
      ...handOver,
      ...(remote.pull_estimate && { pull_estimate: remote.pull_estimate }),
      kv_hop_bytes: { ...remote.kv_hop_bytes, ...hops.kv_hop_bytes },
      two_hop_bytes: (remote.two_hop_bytes ?? 0) + hops.two_hop_bytes,
    };
    return toPrefillStats(
      numPromptTokens,
      completeLedger(remote.ledger, remote.num_remote_tokens, known),
      costs,
    );
  }
  // A P that keeps no ledger: all that was not cached here was computed, there or here.
  const own = prefillLedger({ ...facts, numExternalTokens: 0, numArrivedTokens: 0, numRemoteTokens: null });
  return toPrefillStats(numPromptTokens, completeLedger(own, null, known), {
    num_remote_tokens: null,
    kv_bytes_d_to_p: 0,
    kv_transfer_ms_d_to_p: 0,
    ...handOver,
    ...hops,
  });
}

/** What the node's own load moved, from its peer and from its stores. */
function hopCosts(outcome: PullOutcome | null, peer: 'p' | 'd', self: 'p' | 'd') {
  const hops: readonly [KvHop, number][] = [
    [peer === 'd' ? 'd_to_p' : 'p_to_d', outcome?.numBytes ?? 0],
    [`dedicated_to_${self}`, outcome?.stores?.dedicatedBytes ?? 0],
    [`shared_to_${self}`, outcome?.stores?.sharedBytes ?? 0],
  ];
  return {
    kv_hop_bytes: Object.fromEntries(hops.filter(([, numBytes]) => numBytes > 0)),
    two_hop_bytes: outcome?.twoHopBytes ?? 0,
  };
}

function estimateOf({
  pullEstimate,
  numExternalTokens,
}: AdmissionFacts): Pick<PrefillStats, 'pull_estimate'> {
  if (!pullEstimate) return {};
  const { numTokens, pullMs, recomputeMs } = pullEstimate;
  return {
    pull_estimate: {
      num_tokens: numTokens,
      num_pulled_tokens: numExternalTokens,
      pull_ms: pullMs,
      recompute_ms: recomputeMs,
    },
  };
}

/** Null when P sent none, or such that cannot be of this prompt. */
function statsFromP({ kvTransferParams, numPromptTokens }: Request): PrefillStats | null {
  const stats = kvTransferParams?.remote_prefill_stats ?? null;
  return stats && sumBins(stats.ledger) === numPromptTokens ? stats : null;
}
