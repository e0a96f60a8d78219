// Log probabilities in the two shapes of the OpenAI API.
import type { TextLogprob, TokenTextLogprobs } from '../../engine/request-output.js';

export interface CompletionLogprobs {
  readonly text_offset: readonly number[];
  readonly token_logprobs: readonly number[];
  readonly tokens: readonly string[];
  readonly top_logprobs: readonly Readonly<Record<string, number>>[];
}

/** How a token is written: its text, or by `return_tokens_as_token_ids` its id. */
export function tokenNamer(asTokenIds: boolean | null | undefined): (entry: TextLogprob) => string {
  return asTokenIds ? ({ tokenId }) => `token_id:${tokenId}` : ({ token }) => token;
}

/** `textOffset`: length of the answer's text before the first token. */
export function completionLogprobs(
  entries: readonly TokenTextLogprobs[],
  textOffset: number,
  nameOf: (entry: TextLogprob) => string,
): CompletionLogprobs {
  let offset = textOffset;
  return {
    text_offset: entries.map((entry) => {
      const own = offset;
      offset += nameOf(entry).length;
      return own;
    }),
    token_logprobs: entries.map((entry) => entry.logprob),
    tokens: entries.map(nameOf),
    top_logprobs: entries.map((entry) =>
      Object.fromEntries([entry, ...entry.top].map((one) => [nameOf(one), one.logprob])),
    ),
  };
}

export function chatLogprobs(
  entries: readonly TokenTextLogprobs[],
  nameOf: (entry: TextLogprob) => string,
): object {
  const named = (entry: TextLogprob) => {
    const token = nameOf(entry);
    return { token, logprob: entry.logprob, bytes: [...Buffer.from(token, 'utf8')] };
  };
  return { content: entries.map((entry) => ({ ...named(entry), top_logprobs: entry.top.map(named) })) };
}
