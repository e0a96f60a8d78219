// What changes a row of logits before a token is drawn from it: masks, biases, penalties. All in place.
import type { Request } from '../request.js';

/** Penalties and biases end here, so that only masked tokens are infinite. */
const largestLogit = 3.4e38;

function maskTokens(logits: Float32Array, tokenIds: Iterable<number>): void {
  for (const tokenId of tokenIds) {
    if (tokenId < logits.length) logits[tokenId] = Number.NEGATIVE_INFINITY;
  }
}

/** Token ids as what lies side by side in a row of logits: padding is one long run. */
export interface TokenMask {
  /** (num_runs, 2): first id and the id behind the last one, ascending. */
  readonly runs: Int32Array;
}

export function createTokenMask(tokenIds: Iterable<number>): TokenMask {
  const runs: number[] = [];
  for (const tokenId of Int32Array.from(new Set(tokenIds)).sort()) {
    if (runs.at(-1) === tokenId) runs[runs.length - 1] = tokenId + 1;
    else runs.push(tokenId, tokenId + 1);
  }
  return { runs: Int32Array.from(runs) };
}

/** Filling costs a call, which single tokens are not worth. */
const minFilled = 16;

/** As `maskTokens` of the mask's ids. */
export function applyTokenMask(logits: Float32Array, { runs }: TokenMask): void {
  for (let i = 0; i < runs.length; i += 2) {
    const begin = runs[i]!;
    const end = Math.min(runs[i + 1]!, logits.length);
    if (end - begin >= minFilled) logits.fill(Number.NEGATIVE_INFINITY, begin, end);
    else for (let id = begin; id < end; id++) logits[id] = Number.NEGATIVE_INFINITY;
  }
}

/** Leaves them as they are when nothing else is left to sample. */
function maskIfOthersAreLeft(logits: Float32Array, tokenIds: readonly number[]): void {
  const known = [...new Set(tokenIds)].filter((tokenId) => tokenId < logits.length);
  const saved = known.map((tokenId) => logits[tokenId]!);
  maskTokens(logits, known);
  if (logits.some((logit) => logit > Number.NEGATIVE_INFINITY)) return;
  for (const [index, tokenId] of known.entries()) logits[tokenId] = saved[index]!;
}

/** Masks all but the request's `allowed_token_ids`. */
export function applyAllowedTokens(logits: Float32Array, request: Request): void {
  const { allowedTokenIds } = request.samplingParams;
  if (!allowedTokenIds) return;
  const kept = allowedTokenIds.map((tokenId) => logits[tokenId]!);
  logits.fill(Number.NEGATIVE_INFINITY);
  for (const [index, tokenId] of allowedTokenIds.entries()) logits[tokenId] = kept[index]!;
}

/** Masks the last token of each bad word whose other tokens the output ends with, unless nothing else is left. */
export function applyBadWords(logits: Float32Array, request: Request): void {
  const { badWordsTokenIds } = request.samplingParams;
  const begun = badWordsTokenIds.filter((word) => outputEndsWith(request, word.slice(0, -1)));
  if (begun.length > 0)
    maskIfOthersAreLeft(
      logits,
      begun.map((word) => word.at(-1)!),
    );
}

function outputEndsWith({ tokenIds, numTokens, numOutputTokens }: Request, end: readonly number[]): boolean {
  if (end.length > numOutputTokens) return false;
  return end.every((tokenId, i) => tokenIds[numTokens - end.length + i] === tokenId);
}

/** What would end the request before it has its `min_tokens`; none once it has. */
export function tokensBelowMinimum({
  samplingParams,
  numOutputTokens,
  eosTokenIds,
}: Request): readonly number[] {
  if (numOutputTokens >= samplingParams.minTokens) return [];
  return [...new Set([...eosTokenIds, ...samplingParams.stopTokenIds])];
}

/** Masks them, unless nothing else is left to sample. */
export function applyMinTokens(logits: Float32Array, request: Request): void {
  const tokenIds = tokensBelowMinimum(request);
  if (tokenIds.length > 0) maskIfOthersAreLeft(logits, tokenIds);
}

/** Whether anything here but `applyMinTokens` does something to the request's logits. */
export function changesLogits({ samplingParams }: Request): boolean {
  const { allowedTokenIds, badWordsTokenIds, logitBias } = samplingParams;
  const { repetitionPenalty, presencePenalty, frequencyPenalty } = samplingParams;
  return (
    allowedTokenIds !== null ||
    badWordsTokenIds.length > 0 ||
    logitBias.size > 0 ||
    repetitionPenalty !== 1 ||
    presencePenalty !== 0 ||
    frequencyPenalty !== 0
  );
}

export function applyLogitBias(logits: Float32Array, request: Request): void {
  for (const [tokenId, bias] of request.samplingParams.logitBias) {
    change(logits, tokenId, (logit) => logit + bias);
  }
}

/**
 * Repetition penalty looks at prompt and output (Keskar et al., 2019: divide what is positive, multiply what is
 * negative); presence and frequency penalties look at the output only, as OpenAI defines them.
 */
export function applyPenalties(logits: Float32Array, request: Request): void {
  const { repetitionPenalty, presencePenalty, frequencyPenalty } = request.samplingParams;
  if (repetitionPenalty !== 1) {
    for (const tokenId of new Set(request.tokenIds)) {
      change(logits, tokenId, (logit) => (logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty));
    }
  }
  if (presencePenalty === 0 && frequencyPenalty === 0) return;
  for (const [tokenId, count] of outputCounts(request)) {
    change(logits, tokenId, (logit) => logit - presencePenalty - frequencyPenalty * count);
  }
}

function outputCounts(request: Request): Map<number, number> {
  const counts = new Map<number, number>();
  for (let i = request.numPromptTokens; i < request.numTokens; i++) {
    const tokenId = request.tokenIds[i]!;
    counts.set(tokenId, (counts.get(tokenId) ?? 0) + 1);
  }
  return counts;
}

function change(logits: Float32Array, tokenId: number, to: (logit: number) => number): void {
  const logit = logits[tokenId];
  if (logit === undefined || logit === Number.NEGATIVE_INFINITY) return;
  logits[tokenId] = Math.max(-largestLogit, Math.min(largestLogit, to(logit)));
}
