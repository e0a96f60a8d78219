// Log probabilities in the two shapes of the OpenAI API.
import type { TextLogprob, TokenTextLogprobs } from '../../engine/request-output.js';

export interface CompletionLogprobs {
  readonly text_offset: readonly number[];
  readonly token_logprobs: readonly number[];
  readonly tokens: readonly string[];
  readonly top_logprobs: readonly Readonly<Record<string, number>>[];
}

/** `textOffset`: length of the answer's text before the first token. */
export function completionLogprobs(
  entries: readonly TokenTextLogprobs[],
  textOffset: number,
): CompletionLogprobs {
  let offset = textOffset;
  return {
    text_offset: entries.map((entry) => {
      const own = offset;
      offset += entry.token.length;
      return own;
    }),
    token_logprobs: entries.map((entry) => entry.logprob),
    tokens: entries.map((entry) => entry.token),
    top_logprobs: entries.map((entry) =>
      Object.fromEntries([entry, ...entry.top].map(({ token, logprob }) => [token, logprob])),
    ),
  };
}

export function chatLogprobs(entries: readonly TokenTextLogprobs[]): object {
  return {
    content: entries.map((entry) => ({ ...chatLogprob(entry), top_logprobs: entry.top.map(chatLogprob) })),
  };
}

function chatLogprob({ token, logprob }: TextLogprob): object {
  return { token, logprob, bytes: [...Buffer.from(token, 'utf8')] };
}
