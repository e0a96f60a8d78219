// Draws one token from one row of logits. The same request at the same position always draws the same token.
import { VllmPdError } from '../errors.js';
import { type Draw, maxForbidden } from '../native/draws.js';
import type { TokenLogprobs } from '../outputs.js';
import type { Request, SamplingParams } from '../request.js';
import {
  applyAllowedTokens,
  applyBadWords,
  applyLogitBias,
  applyMinTokens,
  applyPenalties,
  applyTokenMask,
  changesLogits,
  createTokenMask,
  type TokenMask,
  tokensBelowMinimum,
} from './logits.js';
import { tokenLogprobs } from './logprobs.js';
import { seedOf, uniform } from './random.js';

/** Below this temperature a draw is as good as greedy, and dividing by it would overflow (vLLM's limit). */
const greedyTemperature = 1e-5;

export interface SamplerOptions {
  /** Never sampled: `suppress_tokens` of generation_config.json. */
  readonly suppressTokenIds: readonly number[];
  /** For requests that bring no seed of their own. */
  readonly seed: number;
}

export interface Sample {
  readonly tokenId: number;
  /** Null unless the request asked for them. */
  readonly logprobs: TokenLogprobs | null;
}

export class Sampler {
  readonly #suppressTokenIds: ReadonlySet<number>;
  readonly #suppressMask: TokenMask;
  readonly #seed: number;

  constructor(options: SamplerOptions) {
    this.#suppressTokenIds = new Set(options.suppressTokenIds);
    this.#suppressMask = createTokenMask(this.#suppressTokenIds);
    this.#seed = options.seed;
  }

  /** `logits`: (vocab_size), overwritten. INTERNAL when no token has a finite logit. */
  sample(request: Request, logits: Float32Array): Sample {
    const params = request.samplingParams;
    this.#suppress(params, logits);
    const raw = params.logprobs === null ? null : logits.slice();
    applyAllowedTokens(logits, request);
    applyBadWords(logits, request);
    applyMinTokens(logits, request);
    applyLogitBias(logits, request);
    applyPenalties(logits, request);
    const tokenId = this.#draw(request, logits);
    return {
      tokenId,
      logprobs: raw && tokenLogprobs(raw, tokenId, params.logprobTokenIds ?? params.logprobs ?? 0),
    };
  }

  /** Of a token of the prompt, from the logits that it could have been sampled from; as `sample` would say. Overwrites these. */
  logprobsOfPromptToken(request: Request, logits: Float32Array, tokenId: number): TokenLogprobs {
    this.#suppress(request.samplingParams, logits);
    return tokenLogprobs(logits, tokenId, request.samplingParams.promptLogprobs ?? 0);
  }

  /**
   * What `sample` would do with the request's next logits, for a model that draws by itself and suppresses the same
   * tokens; null where more than a draw is asked for, so that `sample` has to see the logits.
   */
  drawOf(request: Request): Draw | null {
    const params = request.samplingParams;
    const forbidden = changesLogits(request) ? null : tokensBelowMinimum(request);
    if (params.logprobs !== null || params.minP > 0 || forbidden === null || forbidden.length > maxForbidden)
      return null;
    const { temperature, topK, topP } = params;
    return { temperature, topK, topP, share: this.#share(request), forbidden };
  }

  /** Who allows suppressed tokens alone wants them said. */
  #suppress({ allowedTokenIds }: SamplingParams, logits: Float32Array): void {
    const asksForThem = allowedTokenIds?.every((tokenId) => this.#suppressTokenIds.has(tokenId)) ?? false;
    if (!asksForThem) applyTokenMask(logits, this.#suppressMask);
  }

  #draw(request: Request, logits: Float32Array): number {
    const best = argmax(logits);
    const params = request.samplingParams;
    if (params.temperature < greedyTemperature) return best;
    return drawFrom(candidates(logits, logits[best]!, params), this.#share(request));
  }

  /** Where in the cumulative distribution this position's token is taken. */
  #share({ samplingParams, requestId, numTokens }: Request): number {
    return uniform(samplingParams.seed ?? seedOf(this.#seed, requestId), numTokens);
  }
}

const noFiniteLogit = 'Expected at least one finite logit but the model returned none.';

/** A model's own draw; -1 is where it found no finite logit. Throws INTERNAL as `sample` does. */
export function checkDrawn(tokenId: number): number {
  if (tokenId >= 0) return tokenId;
  throw new VllmPdError('INTERNAL', noFiniteLogit);
}

/** Id of the largest logit; of equal ones the lowest id. */
function argmax(logits: Float32Array): number {
  let best = -1;
  let bestLogit = Number.NEGATIVE_INFINITY;
  for (let tokenId = 0; tokenId < logits.length; tokenId++) {
    const logit = logits[tokenId]!;
    if (logit > bestLogit) {
      best = tokenId;
      bestLogit = logit;
    }
  }
  if (best >= 0 && bestLogit < Number.POSITIVE_INFINITY) return best;
  throw new VllmPdError('INTERNAL', noFiniteLogit);
}

/**
 * Weight of the likeliest token. Weights are whole numbers, so that a sum of up to 2^19 of them is exact and the same in
 * whatever order it is formed: the GPU (native/cuda/sample.cu) draws the same tokens. Less than one part in 2^34 of the
 * likeliest token's probability is never drawn.
 */
const unit = 2 ** 34;

/** Tokens that may be drawn, in the order of their ids, and their weights: probabilities up to a common factor. */
interface Candidates {
  readonly tokenIds: Int32Array;
  readonly logits: Float32Array;
  readonly weights: Float64Array;
}

/** Temperature, then min-p, top-k and top-p, each on what the one before left, in vLLM's order. */
function candidates(logits: Float32Array, maxLogit: number, params: SamplingParams): Candidates {
  const { temperature, minP, topK, topP } = params;
  // In logits: weight >= minP * best weight, where weight = exp((logit - maxLogit) / temperature).
  const floor = minP > 0 ? maxLogit + Math.log(minP) * temperature : Number.NEGATIVE_INFINITY;
  const tokenIds = new Int32Array(logits.length);
  const kept = new Float32Array(logits.length);
  const weights = new Float64Array(logits.length);
  let count = 0;
  for (let tokenId = 0; tokenId < logits.length; tokenId++) {
    const logit = logits[tokenId]!;
    if (!(logit >= floor) || logit === Number.NEGATIVE_INFINITY) continue;
    const weight = Math.floor(Math.exp((logit - maxLogit) / temperature) * unit);
    if (weight === 0) continue;
    tokenIds[count] = tokenId;
    kept[count] = logit;
    weights[count] = weight;
    count++;
  }
  const all = {
    tokenIds: tokenIds.subarray(0, count),
    logits: kept.subarray(0, count),
    weights: weights.subarray(0, count),
  };
  return nucleus(largest(all, topK), topP);
}

/** Keeps the `k` heaviest, of equal ones those with the lowest ids; 0 = all. */
function largest(from: Candidates, k: number): Candidates {
  if (k === 0 || k >= from.weights.length) return from;
  return heaviest(from, k);
}

/** Keeps the fewest heaviest tokens whose share of the total weight reaches `topP`; at least one. */
function nucleus(from: Candidates, topP: number): Candidates {
  if (topP >= 1) return from;
  const total = sum(from.weights);
  // All tokens below this weight together weigh less than what may be left out, so none of them needs to be sorted.
  const floor = ((1 - topP) * total) / from.weights.length;
  const heavy = keep(from, (i) => from.weights[i]! >= floor);
  // Numbers in a typed array sort several times faster than ids with a comparator.
  const ascending = heavy.weights.slice().sort();
  let share = 0;
  let count = 0;
  while (count < ascending.length && (count === 0 || share < topP * total)) {
    count++;
    share += ascending[ascending.length - count]!;
  }
  return heaviest(heavy, count);
}

/** The `count` with the largest logits, of equal ones those with the lowest ids. */
function heaviest(from: Candidates, count: number): Candidates {
  const { logits } = from;
  const least = kthLargest(logits, count);
  let numTies = count;
  for (const logit of logits) if (logit > least) numTies--;
  return keep(from, (i) => logits[i]! > least || (logits[i] === least && numTies-- > 0));
}

/** Hoare's selection, linear on average: a vocabulary is too long to be sorted for every token. */
function kthLargest(values: Float32Array, k: number): number {
  const work = values.slice();
  const target = work.length - k;
  let first = 0;
  let last = work.length - 1;
  while (first < last) {
    const pivot = work[(first + last) >> 1]!;
    let i = first;
    let j = last;
    while (i <= j) {
      while (work[i]! < pivot) i++;
      while (work[j]! > pivot) j--;
      if (i > j) break;
      const swapped = work[i]!;
      work[i++] = work[j]!;
      work[j--] = swapped;
    }
    if (target <= j) last = j;
    else if (target >= i) first = i;
    else break;
  }
  return work[target]!;
}

function keep(from: Candidates, wanted: (index: number) => boolean): Candidates {
  const kept: number[] = [];
  for (let i = 0; i < from.weights.length; i++) if (wanted(i)) kept.push(i);
  return {
    tokenIds: Int32Array.from(kept, (i) => from.tokenIds[i]!),
    logits: Float32Array.from(kept, (i) => from.logits[i]!),
    weights: Float64Array.from(kept, (i) => from.weights[i]!),
  };
}

function sum(weights: Float64Array): number {
  let total = 0;
  for (const weight of weights) total += weight;
  return total;
}

/** Inverse of the cumulative distribution at `u` in [0, 1). */
function drawFrom({ tokenIds, weights }: Candidates, u: number): number {
  let rest = u * sum(weights);
  for (let i = 0; i < weights.length; i++) {
    rest -= weights[i]!;
    if (rest < 0) return tokenIds[i]!;
  }
  // Rounding can leave a crumb behind the last token.
  return tokenIds[tokenIds.length - 1]!;
}
