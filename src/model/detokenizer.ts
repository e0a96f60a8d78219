// Token ids → text while they are being generated: each push answers with the text that has become certain.
import type { Tokenizer } from './tokenizer.js';

/**
 * A character may be spread over several tokens; its bytes are held back until it is complete. Each id costs the
 * same however long the text is, and the pieces joined are what `Tokenizer.decode` makes of all ids.
 */
export class Detokenizer {
  readonly #tokenizer: Tokenizer;
  readonly #skipSpecialTokens: boolean;
  readonly #utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

  constructor(tokenizer: Tokenizer, { skipSpecialTokens = true } = {}) {
    this.#tokenizer = tokenizer;
    this.#skipSpecialTokens = skipSpecialTokens;
  }

  /** The text that these ids complete; '' while a character is incomplete. */
  push(ids: readonly number[]): string {
    let text = '';
    for (const id of ids) {
      const piece = this.#tokenizer.piece(id);
      if (piece.special && this.#skipSpecialTokens) continue;
      text +=
        piece.kind === 'bytes' ? this.#utf8.decode(piece.bytes, { stream: true }) : this.flush() + piece.text;
    }
    return text;
  }

  /** What is still held back, as U+FFFD, at the end of the generation. */
  flush(): string {
    return this.#utf8.decode();
  }
}
