// An answer's first token between P, which sampled it, and D, which goes on behind it: to the wire and back.
import type { TokenLogprobs } from '../outputs.js';
import type { KvTransferParams, RemoteFirstToken } from '../wire.js';

export interface FirstToken {
  readonly tokenId: number;
  /** Null when P was asked for none. */
  readonly logprobs: TokenLogprobs | null;
}

/** What D is told. `held`: P's description of the blocks that it keeps; null when it keeps none, and D computes them. */
export function withFirstToken(
  held: KvTransferParams | null,
  tokenId: number,
  logprobs: TokenLogprobs | null,
): KvTransferParams {
  const token: RemoteFirstToken = {
    token_id: tokenId,
    logprobs: logprobs && {
      logprob: logprobs.logprob,
      rank: logprobs.rank,
      top: logprobs.top.map((entry) => ({ token_id: entry.tokenId, logprob: entry.logprob })),
    },
  };
  return { ...(held ?? { do_remote_prefill: true, do_remote_decode: false }), remote_first_token: token };
}

/** Null when the request is to begin with its first token itself. */
export function firstTokenOf(params: KvTransferParams | null): FirstToken | null {
  const token = params?.do_remote_prefill ? params.remote_first_token : null;
  if (!token) return null;
  const { token_id: tokenId, logprobs } = token;
  if (!logprobs) return { tokenId, logprobs: null };
  const top = logprobs.top.map((entry) => ({ tokenId: entry.token_id, logprob: entry.logprob }));
  return { tokenId, logprobs: { tokenId, logprob: logprobs.logprob, rank: logprobs.rank, top } };
}
