// Does an answer come back as the same token ids when the next turn sends it as history? Only then is its KV reused.
import type { ChatTemplate } from './chat-template.js';
import type { GenerationConfig } from './generation-config.js';
import type { Tokenizer } from './tokenizer.js';

/**
 * - `any_answer`: every sequence of ids that the model may generate comes back (as far as a sample can tell).
 * - `canonical_text`: the template keeps an answer, but ids that are not the tokenizer's own choice for their text
 *   come back as others.
 * - `broken`: the template changes an answer's text or its surroundings.
 */
export type HistoryRoundTrip = 'any_answer' | 'canonical_text' | 'broken' | 'no_chat_template';

interface Texts {
  readonly tokenizer: Tokenizer;
  readonly chatTemplate: ChatTemplate;
  readonly generationConfig: GenerationConfig;
}

const numSamples = 8;
const numAnswerTokens = 64;

export function historyRoundTrip(texts: Texts): HistoryRoundTrip {
  if (!texts.chatTemplate.isPresent) return 'no_chat_template';
  const allowed = allowedIds(texts);
  const samples = Array.from({ length: numSamples }, (_, sample) =>
    Array.from({ length: numAnswerTokens }, (_, i) => allowed[spread(sample, i) % allowed.length]!),
  );
  if (samples.every((ids) => comesBack(texts, ids))) return 'any_answer';
  const canonical = samples.map((ids) =>
    texts.tokenizer.encode(texts.tokenizer.decode(ids), { addSpecialTokens: false }),
  );
  return canonical.every((ids) => comesBack(texts, ids)) ? 'canonical_text' : 'broken';
}

/** True if the prompt's ids followed by `answer` begin the next turn's prompt. */
export function comesBack({ tokenizer, chatTemplate }: Texts, answer: readonly number[]): boolean {
  const question = { role: 'user', content: 'Question.' };
  const history = [question, { role: 'assistant', content: tokenizer.decode(answer) }, question];
  const next = chatTemplate.encodeChat(history);
  return [...chatTemplate.encodeChat([question]), ...answer].every((id, i) => next[i] === id);
}

function allowedIds({ tokenizer, generationConfig }: Texts): number[] {
  const left = new Set([...generationConfig.suppressTokens, ...generationConfig.eosTokenIds]);
  const special = new Set(tokenizer.specialTokenIds);
  const all = Array.from({ length: tokenizer.vocabSize }, (_, id) => id);
  return all.filter((id) => !left.has(id) && !special.has(id));
}

/** Some fixed, scattered choice. */
function spread(sample: number, i: number): number {
  return Math.imul(sample * numAnswerTokens + i + 1, 0x9e3779b1) >>> 0;
}
