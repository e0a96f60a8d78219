// What a chat template does to an answer that comes back as history: from which token on its KV is of no use.
import type { ChatTemplate } from './chat-template.js';
import type { Tokenizer } from './tokenizer.js';

/** Answers of the kinds that templates are known to change. */
const answers = {
  plain: 'An answer.',
  reasoning: '<think>\nA thought.\n</think>\n\nAn answer.',
  white_space: ' \n An answer. \n',
} as const;

export type AnswerKind = keyof typeof answers;

export interface HistoryChange {
  readonly answer: AnswerKind;
  /** Tokens of the first turn's prompt and answer that begin the second turn's prompt… */
  readonly num_reusable_tokens: number;
  /** …of so many. */
  readonly num_tokens: number;
  /** How the two go on from there. */
  readonly generated: string;
  readonly rendered: string;
}

const numShownTokens = 8;

/**
 * Two turns of each kind of answer, rendered and compared token by token; those that come back whole are left out.
 * Throws INVALID_ARGUMENT if the template refuses a conversation of two turns.
 */
export function historyChanges(tokenizer: Tokenizer, chatTemplate: ChatTemplate): HistoryChange[] {
  if (!chatTemplate.isPresent) return [];
  const question = { role: 'user', content: 'A question.' };
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
  const show = (ids: readonly number[], from: number) =>
    tokenizer.decode(ids.slice(from, from + numShownTokens), { skipSpecialTokens: false });
  return Object.entries(answers).flatMap(([answer, content]): HistoryChange[] => {
    // As the tokenizer would split it, so that only the template makes a difference.
    const first = encode(chatTemplate.renderChat([question]) + content);
    const second = chatTemplate.encodeChat([question, { role: 'assistant', content }, question]);
    const same = first.findIndex((id, i) => second[i] !== id);
    if (same < 0) return [];
    return [
      {
        answer: answer as AnswerKind,
        num_reusable_tokens: same,
        num_tokens: first.length,
        generated: show(first, same),
        rendered: show(second, same),
      },
    ];
  });
}
