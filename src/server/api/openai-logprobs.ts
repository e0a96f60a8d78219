// Log probabilities in the two shapes of the OpenAI API.
import type { TextLogprob, TokenTextLogprobs } from '../../engine/request-output.js';

export interface CompletionLogprobs {
  readonly text_offset: readonly number[];
  readonly token_logprobs: readonly (number | null)[];
  readonly tokens: readonly string[];
  readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[];
}

/** A prompt's first token, which nothing comes before. */
export type FirstOfPrompt = Omit<TextLogprob, 'logprob'> & { readonly logprob: null };

type TokenNamer = (entry: Omit<TextLogprob, 'logprob'>) => string;

/** How a token is written: its text, or by `return_tokens_as_token_ids` its id. */
export function tokenNamer(asTokenIds: boolean | null | undefined): TokenNamer {
  return asTokenIds ? ({ tokenId }) => `token_id:${tokenId}` : ({ token }) => token;
}

/** `textOffset`: length of the answer's text before the first token. */
export function completionLogprobs(
  entries: readonly (TokenTextLogprobs | FirstOfPrompt)[],
  textOffset: number,
  nameOf: TokenNamer,
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
      entry.logprob === null
        ? null
        : Object.fromEntries([entry, ...entry.top].map((one) => [nameOf(one), one.logprob])),
    ),
  };
}

export function chatLogprobs(entries: readonly TokenTextLogprobs[], nameOf: TokenNamer): object {
  const named = (entry: TextLogprob) => {
    const token = nameOf(entry);
    return { token, logprob: entry.logprob, bytes: [...Buffer.from(token, 'utf8')] };
  };
  return { content: entries.map((entry) => ({ ...named(entry), top_logprobs: entry.top.map(named) })) };
}

/** By token id, one entry a token of the prompt, null for its first one. `entries`: of the others. */
export function promptLogprobs(entries: readonly TokenTextLogprobs[] | null): (object | null)[] | null {
  return entries && [null, ...entries.map(byTokenId)];
}

/** Spelt out, since a long prompt has tens of thousands of them. */
function byTokenId({ tokenId, logprob, rank, token, top }: TokenTextLogprobs): object {
  const scores: Record<number, object> = { [tokenId]: { logprob, rank, decoded_token: token } };
  for (let i = 0; i < top.length; i += 1) {
    const one = top[i]!;
    scores[one.tokenId] = { logprob: one.logprob, rank: i + 1, decoded_token: one.token };
  }
  return scores;
}
