// Whether the token that was just sampled ends its request.
import type { FinishedStatus, Request } from '../request.js';

export interface Stop {
  readonly status: FinishedStatus;
  readonly stopReason: number | null;
}

/**
 * In vLLM's order: min_tokens, end of sequence, stop token ids, length; then the end of what was asked of this node. `maxTokens` of the whole sequence holds even
 * below min_tokens, since nothing beyond it can be computed.
 */
export function checkStop(request: Request, maxSequenceTokens: number): Stop | null {
  const { samplingParams, numOutputTokens } = request;
  if (numOutputTokens >= samplingParams.minTokens) {
    const tokenId = request.tokenIds[request.numTokens - 1]!;
    if (!samplingParams.ignoreEos && request.eosTokenIds.includes(tokenId)) {
      return { status: 'FINISHED_STOPPED', stopReason: tokenId === request.eosTokenIds[0] ? null : tokenId };
    }
    if (samplingParams.stopTokenIds.includes(tokenId)) {
      return { status: 'FINISHED_STOPPED', stopReason: tokenId };
    }
  }
  const isFull = request.numTokens >= maxSequenceTokens || numOutputTokens >= samplingParams.maxTokens;
  if (isFull) return { status: 'FINISHED_LENGTH_CAPPED', stopReason: null };
  return request.endsWithFirstToken ? { status: 'FINISHED_HANDED_OVER', stopReason: null } : null;
}
