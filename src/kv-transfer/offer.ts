// What a peer offers for a request: how many tokens, and how many of them this node may and can verifiably pull.
import type { KvTransferConfig } from '../config.js';
import type { Request } from '../request.js';
import { classifyTransfer, remoteBlocksOf } from './params.js';

export interface Offer {
  /** Tokens from position 0 that the peer holds, as far as its block list covers them. */
  readonly numOfferedTokens: number;
  /** Of these, what can be used for this prompt and checked by block hash. */
  readonly numUsableTokens: number;
  /** Fewer external tokens than this are not worth a transfer; `auto` = what it costs decides. */
  readonly minTokens: number | 'auto';
}

/** Null when the request does not bring an offer, or this node may not take it. */
export function offerOf(request: Request, config: KvTransferConfig, blockSize: number): Offer | null {
  const kind = classifyTransfer(request.kvTransferParams);
  if (kind === 'remote_prefill') {
    // The scheduler steps back one token after a load of the whole prompt, so D may pull all of it.
    return measure(request, blockSize, request.numPromptTokens, 1);
  }
  if (kind === 'remote_decode' && config.role !== 'decode' && config.mode === 'bi') {
    return measure(request, blockSize, request.numPromptTokens - 1, config.kvRecomputeThreshold);
  }
  return null;
}

function measure(
  request: Request,
  blockSize: number,
  limit: number,
  minTokens: Offer['minTokens'],
): Offer | null {
  const params = request.kvTransferParams;
  const blockIds = remoteBlocksOf(params)?.blockIds ?? [];
  const numCoveredTokens = blockIds.length * blockSize;
  const isHandOver = params?.do_remote_prefill === true;
  const numDeclaredTokens =
    params?.remote_num_tokens ??
    (blockIds.length === 0 ? null : isHandOver ? request.numPromptTokens : numCoveredTokens);
  if (numDeclaredTokens === null) return null;
  const numOfferedTokens = Math.min(numDeclaredTokens, numCoveredTokens);
  const numWanted = Math.min(numOfferedTokens, limit);
  // A partly used block could not be checked: its row names all the tokens that the owner has in it. Only where the
  // owner's own tokens end inside a block do both name the same ones.
  const isOwnersEnd = numWanted === numDeclaredTokens;
  const numUsableTokens = isOwnersEnd ? numWanted : numWanted - (numWanted % blockSize);
  return { numOfferedTokens, numUsableTokens, minTokens };
}
