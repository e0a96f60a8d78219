// The hop planner: from where each missing block of a prompt comes, and how many of them are worth it. Pure.
import type { StoreTier } from '../kv-store/kv-store.js';
import type { BlockSource, TransferCosts } from './cost-model.js';

export interface LoadInputs {
  readonly blockSize: number;
  readonly blockBytes: number;
  /** A multiple of the block size. */
  readonly numLocalTokens: number;
  /** End of what the peer offers and can be verified, from position 0; 0 = no peer. */
  readonly numPeerTokens: number;
  /** End of the full blocks that this request could use, from position 0. */
  readonly numStorableTokens: number;
  /** Tiers that hold block i of the prompt, as far as this node knows. */
  tiersOf(blockIndex: number): readonly StoreTier[];
  /** Fewer tokens than this are computed; `auto` = whatever costs less. */
  readonly minTokens: number | 'auto';
  /** False: the peer first, stores only for what it lacks. */
  readonly hopPlanner: boolean;
  readonly costs: TransferCosts;
}

/** What reading or computing the tokens within reach was thought to cost. */
export interface PullEstimate {
  /** Tokens that could have been read. */
  readonly numTokens: number;
  readonly pullMs: number;
  readonly recomputeMs: number;
}

export interface LoadPlan {
  readonly numExternalTokens: number;
  /** One per block behind the local ones. */
  readonly sources: readonly BlockSource[];
  /** Which of them come from the peer although the shared tier has them. */
  readonly isTwoHop: readonly boolean[];
  readonly estimate: PullEstimate | null;
}

export const emptyPlan: LoadPlan = { numExternalTokens: 0, sources: [], isTwoHop: [], estimate: null };

/**
 * With the planner on, what a store of this node holds is never read from a peer: it would travel twice, once into the
 * store or the peer and once more from the peer, over links that others need.
 */
export function planLoad(inputs: LoadInputs): LoadPlan {
  const { blockSize, numLocalTokens, hopPlanner } = inputs;
  const firstBlock = numLocalTokens / blockSize;
  const sources: BlockSource[] = [];
  const isTwoHop: boolean[] = [];
  let end = numLocalTokens;
  for (let i = firstBlock; ; i += 1) {
    const blockEnd = (i + 1) * blockSize;
    const stores = blockEnd <= inputs.numStorableTokens ? inputs.tiersOf(i) : [];
    const isAtPeer = i * blockSize < inputs.numPeerTokens;
    const store = cheapestStore(stores, inputs);
    const source = hopPlanner ? (store ?? (isAtPeer ? 'peer' : null)) : isAtPeer ? 'peer' : store;
    if (source === null) break;
    sources.push(source);
    isTwoHop.push(source === 'peer' && stores.includes('shared'));
    end = source === 'peer' ? Math.min(blockEnd, inputs.numPeerTokens) : blockEnd;
    // Behind a block that is partly filled there is nothing.
    if (end < blockEnd) break;
  }
  if (sources.length === 0) return emptyPlan;
  const numTokens = end - numLocalTokens;
  const whole: LoadPlan = {
    numExternalTokens: numTokens,
    sources,
    isTwoHop,
    estimate: {
      numTokens,
      pullMs: readMs(sources, inputs),
      recomputeMs: inputs.costs.prefillMs(numTokens),
    },
  };
  return cut(whole, numWorthwhileBlocks(whole, inputs), inputs);
}

function cheapestStore(tiers: readonly StoreTier[], { costs, blockBytes }: LoadInputs): StoreTier | null {
  const [first, second] = tiers;
  if (!first || !second) return first ?? null;
  return costs.readMs(first, blockBytes) <= costs.readMs(second, blockBytes) ? first : second;
}

function numWorthwhileBlocks({ sources, numExternalTokens }: LoadPlan, inputs: LoadInputs): number {
  const { minTokens, blockSize, costs } = inputs;
  if (minTokens !== 'auto') return numExternalTokens < minTokens ? 0 : sources.length;
  // What is left out is computed: the best cut lies where the source changes, since costs are linear between.
  const cuts = sources.flatMap((source, i) => (i > 0 && source === sources[i - 1] ? [] : [i]));
  let best = { numBlocks: 0, ms: costs.prefillMs(numExternalTokens) };
  for (const numBlocks of [...cuts.slice(1), sources.length]) {
    const numLeftTokens = Math.max(0, numExternalTokens - numBlocks * blockSize);
    const ms = readMs(sources.slice(0, numBlocks), inputs) + costs.prefillMs(numLeftTokens);
    if (ms < best.ms) best = { numBlocks, ms };
  }
  return best.numBlocks;
}

/** Sources are read side by side, but on one machine they share what they are limited by. */
function readMs(sources: readonly BlockSource[], { costs, blockBytes }: LoadInputs): number {
  return (['peer', 'dedicated', 'shared'] as const).reduce((sum, source) => {
    const numBlocks = sources.filter((candidate) => candidate === source).length;
    return sum + costs.readMs(source, numBlocks * blockBytes);
  }, 0);
}

function cut(plan: LoadPlan, numBlocks: number, { blockSize }: LoadInputs): LoadPlan {
  if (numBlocks === plan.sources.length) return plan;
  return {
    ...plan,
    numExternalTokens: numBlocks * blockSize,
    sources: plan.sources.slice(0, numBlocks),
    isTwoHop: plan.isTwoHop.slice(0, numBlocks),
  };
}
