// Words for a prompt that is known by its blocks: equal blocks get equal words, so that a hit across conversations is one.
import { type CountTokens, textOfTokens, wordSource } from '../prompt-text.js';
import { Random } from '../random.js';
import type { PromptBlocks } from './dataset.js';

export class BlockTexts {
  readonly #seed: number;
  readonly #count: CountTokens;
  readonly #texts = new Map<string, string>();

  constructor(seed: number, count: CountTokens) {
    this.#seed = seed;
    this.#count = count;
  }

  /** A text of `numTokens` tokens; each block has `scale` times its tokens. */
  async textOf({ ids, blockSize }: PromptBlocks, numTokens: number, scale: number): Promise<string> {
    const end = (block: number) => Math.min(numTokens, Math.round((block + 1) * blockSize * scale));
    const parts = ids.map((id, i) => ({
      label: `block/${id}`,
      length: Math.max(0, end(i) - (i === 0 ? 0 : end(i - 1))),
    }));
    const guess = parts.map(({ label, length }) => this.#words(label, length).join('')).join('');
    // One call where every word is one token.
    if ((await this.#count(guess)) === numTokens) return guess;
    let text = '';
    for (const part of parts) text += await this.#exact(part.label, part.length);
    return text;
  }

  #words(label: string, length: number): string[] {
    const nextWord = wordSource([], new Random(this.#seed, label));
    return Array.from({ length }, () => ` ${nextWord()}`);
  }

  async #exact(label: string, length: number): Promise<string> {
    const key = `${label} ${length}`;
    const known = this.#texts.get(key);
    if (known !== undefined) return known;
    const text = await textOfTokens(length, wordSource([], new Random(this.#seed, label)), this.#count);
    this.#texts.set(key, text);
    return text;
  }
}
