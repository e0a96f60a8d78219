// Text → token ids, section by section, so that a conversation's next turn costs its new messages only.
import type { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { EncodingCache } from './encoding-cache.js';
import { createTextCutter, isSection, type Section, type TextCutter } from './text-sections.js';
import type { TokenizerFiles } from './tokenizer-files.js';

export class SectionEncoder {
  readonly #library: LibraryTokenizer;
  readonly #cut: TextCutter;
  readonly #cache = new EncodingCache();

  constructor({ library, addedTokens }: TokenizerFiles) {
    this.#library = library;
    this.#cut = createTextCutter(library, addedTokens);
  }

  encode(text: string, addSpecialTokens: boolean): number[] {
    return this.#cut(text, addSpecialTokens).flatMap((part) => (isSection(part) ? this.#idsOf(part) : part));
  }

  numUnknownCharacters(text: string, addSpecialTokens: boolean): number {
    const sections = this.#cut(text, addSpecialTokens).filter(isSection);
    const unknown = sections.filter((section) => !this.#cache.has(keyOf(section)));
    return unknown.reduce((sum, section) => sum + section.text.length, 0);
  }

  #idsOf(section: Section): readonly number[] {
    const key = keyOf(section);
    const known = this.#cache.get(key);
    if (known) return known;
    const { text, addSpecialTokens, numLeadingIds } = section;
    const ids = this.#library.encode(text, { add_special_tokens: addSpecialTokens }).ids.slice(numLeadingIds);
    this.#cache.set(key, ids);
    return ids;
  }
}

/** A first section holds no added token and a later one begins with one, so their texts differ. */
function keyOf({ text, addSpecialTokens }: Section): string {
  return (addSpecialTokens ? '+' : '-') + text;
}
