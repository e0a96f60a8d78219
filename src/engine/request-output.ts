// What a caller of Engine.generate gets: pieces of one answer.
import type { KvTransferParams, PrefillStats } from '../wire.js';

/** `abort`: the caller or a shutdown ended it. `hand_over`: the answer goes on elsewhere, behind its first token. */
export type FinishReason = 'stop' | 'length' | 'abort' | 'hand_over';

export interface TextLogprob {
  readonly tokenId: number;
  /** The token's own text; U+FFFD where it is not whole characters. */
  readonly token: string;
  readonly logprob: number;
}

export interface TokenTextLogprobs extends TextLogprob {
  /** 1-based. */
  readonly rank: number;
  /** Most likely first. */
  readonly top: readonly TextLogprob[];
}

/** What came since the piece before. A caller that is slow gets fewer, longer pieces. */
export interface RequestOutput {
  readonly requestId: string;
  readonly numPromptTokens: number;
  /** May lag behind `tokenIds`: parts of characters and of stop strings are held back. */
  readonly text: string;
  readonly tokenIds: readonly number[];
  /** One per entry of `tokenIds`, or empty when the request did not ask. */
  readonly logprobs: readonly TokenTextLogprobs[];
  /** One per token of the prompt but the first, in the first piece; null otherwise, and when the request did not ask. */
  readonly promptLogprobs: readonly TokenTextLogprobs[] | null;
  /** Tokens of the whole answer so far. */
  readonly numOutputTokens: number;
  /** Null while the request goes on. */
  readonly finishReason: FinishReason | null;
  /** The stop string or stop token id that ended it; null for end-of-sequence and length. */
  readonly stopReason: number | string | null;
  /** In the last piece, when blocks are held for a peer. */
  readonly kvTransferParams: KvTransferParams | null;
  /** From the piece with the first token that was computed here on. */
  readonly prefillStats: PrefillStats | null;
}

/** One piece that says what both said. */
export function mergeOutputs(first: RequestOutput, second: RequestOutput): RequestOutput {
  return {
    ...second,
    text: first.text + second.text,
    tokenIds: [...first.tokenIds, ...second.tokenIds],
    logprobs: [...first.logprobs, ...second.logprobs],
    promptLogprobs: first.promptLogprobs ?? second.promptLogprobs,
  };
}
