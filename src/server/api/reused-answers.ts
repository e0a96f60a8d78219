// Answers that come back as history are encoded as the ids that were generated, not as the tokenizer would now choose.
//
// Text that is the same can be other token ids: what a model samples need not be its tokenizer's own split. Then the KV
// of an answer, which is cached under the ids that were generated, is of no use to the next turn. By content alone: a
// history that holds an answer of this node word for word gets that answer's ids back.
import type { ChatMessage, ChatTemplate, RenderChatOptions } from '../../model/chat-template.js';
import { Detokenizer } from '../../model/detokenizer.js';
import { EncodingCache } from '../../model/encoding-cache.js';
import type { Tokenizer } from '../../model/tokenizer.js';

/** A piece of a prompt: text yet to be encoded, or an answer's ids. */
type PromptPart = { readonly text: string } | { readonly tokenIds: readonly number[] };

type Encode = (text: string, addSpecialTokens: boolean) => Promise<readonly number[]>;

/** Private-use characters around a message's number: no template touches them, and no answer is taken for them. */
const placeholder = (index: number) => `\u{e000}${index}\u{e001}`;
const placeholders = /\u{e000}(\d+)\u{e001}/u;

export class ReusedAnswers {
  readonly #tokenizer: Tokenizer;
  readonly #template: ChatTemplate;
  /** Bounded by its bytes; a text that was answered in two ways keeps the later ids. */
  readonly #answers: EncodingCache;

  constructor(tokenizer: Tokenizer, template: ChatTemplate, maxBytes?: number) {
    this.#tokenizer = tokenizer;
    this.#template = template;
    this.#answers = new EncodingCache(maxBytes);
  }

  /** Keeps an answer whose ids are exactly its text; a special token at its end is the template's to write. */
  remember(text: string, tokenIds: readonly number[]): boolean {
    const ids = this.#withoutEnd(tokenIds);
    const isKept = ids.length > 0 && !ids.some((id) => this.#isSpecial(id)) && this.#textOf(ids) === text;
    if (isKept) this.#answers.set(text, ids);
    return isKept;
  }

  /** Keeps another node's answer, of which only the ids are known; unknown ones are no answer. */
  rememberIds(tokenIds: readonly number[]): void {
    if (tokenIds.some((id) => id >= this.#tokenizer.vocabSize)) return;
    this.remember(this.#textOf(this.#withoutEnd(tokenIds)), tokenIds);
  }

  #withoutEnd(tokenIds: readonly number[]): readonly number[] {
    const last = tokenIds.at(-1);
    return last !== undefined && this.#isSpecial(last) ? tokenIds.slice(0, -1) : tokenIds;
  }

  #isSpecial(id: number): boolean {
    return this.#tokenizer.piece(id).special;
  }

  /**
   * The ids of `text`, which the template made of `messages`. Null unless it holds a remembered answer, and every
   * remembered answer unchanged.
   */
  async encode(
    text: string,
    messages: readonly ChatMessage[],
    options: RenderChatOptions,
    addSpecialTokens: boolean,
    encode: Encode,
  ): Promise<number[] | null> {
    // An answer that goes on has no end that could be cut at.
    const parts = options.continueFinalMessage ? null : this.#partsOf(text, messages, options);
    if (!parts) return null;
    const tokenIds: number[] = [];
    for (const [i, part] of parts.entries()) {
      if ('tokenIds' in part) {
        tokenIds.push(...part.tokenIds);
        continue;
      }
      const ids = await encode(part.text, addSpecialTokens && i === 0);
      // Some tokenizers put a space before a text that begins; here it goes on.
      if (i > 0 && this.#textOf(ids) !== part.text) return null;
      tokenIds.push(...ids);
    }
    return tokenIds;
  }

  #partsOf(text: string, messages: readonly ChatMessage[], options: RenderChatOptions): PromptPart[] | null {
    const answers = messages.map((message) => this.#answerOf(message));
    if (answers.every((answer) => answer === null) || placeholders.test(text)) return null;
    const marked = messages.map((message, i) =>
      answers[i] ? { ...message, content: placeholder(i) } : message,
    );
    // Text, number, text, number, …, text.
    const pieces = this.#template.renderChat(marked, options).split(placeholders);
    const indices = pieces.filter((_, i) => i % 2 === 1).map(Number);
    const expected = answers.flatMap((answer, i) => (answer ? [i] : []));
    if (indices.join() !== expected.join()) return null;
    const restored = pieces.map((piece, i) => (i % 2 === 1 ? messages[Number(piece)]!.content : piece));
    if (restored.join('') !== text) return null;
    return pieces
      .map((piece, i) => (i % 2 === 1 ? { tokenIds: answers[Number(piece)]! } : { text: piece }))
      .filter((part, i) => i === 0 || !('text' in part) || part.text !== '');
  }

  #answerOf({ role, content, tool_calls }: ChatMessage): readonly number[] | null {
    if (role !== 'assistant' || typeof content !== 'string' || tool_calls != null) return null;
    return this.#answers.get(content) ?? null;
  }

  /** As a text that goes on. */
  #textOf(tokenIds: readonly number[]): string {
    const detokenizer = new Detokenizer(this.#tokenizer, { skipSpecialTokens: false });
    return detokenizer.push(tokenIds) + detokenizer.flush();
  }
}
