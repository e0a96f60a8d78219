// A text cut at its added tokens: what lies between two of them is tokenised for itself, whatever stands around it.
//
// The library cuts so before it normalises, and then looks at nothing beyond a section but whether it is the first
// (Metaspace's prepend_scheme). Two things break this, and then a text is one section: added tokens that strip white
// space off their neighbours, and post-processors that do more than put tokens around a text.
import type { AddedToken, Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';

/** What the library is to encode. */
export interface Section {
  readonly text: string;
  readonly addSpecialTokens: boolean;
  /** Ids to drop off the front of the library's answer. */
  readonly numLeadingIds: number;
}

/** The ids that are known without encoding, or what is to be encoded. */
export type TextPart = readonly number[] | Section;

export type TextCutter = (text: string, addSpecialTokens: boolean) => readonly TextPart[];

export function isSection(part: TextPart): part is Section {
  return 'text' in part;
}

/** The parts' ids joined are the ids that the library gives for the whole text. */
export function createTextCutter(library: LibraryTokenizer, addedTokens: readonly AddedToken[]): TextCutter {
  const frame = frameOf(library);
  if (!frame || addedTokens.some((token) => token.lstrip || token.rstrip)) return uncut;
  // A normalised token is found in the normalised text only, within a section.
  const cutTokens = addedTokens
    .filter((token) => token.content !== '' && !(token.normalized && library.normalizer !== null))
    .map((token) => token.content)
    .sort((a, b) => b.length - a.length);
  const [separator] = cutTokens;
  if (separator === undefined) return (text, add) => framed(frame, add, [first(text)]);
  const ids = new Map(cutTokens.map((content) => [content, encodeAlone(library, content)]));
  // Of alternatives that fit at one place the first is taken, so the longest token, as by the library.
  const pattern = new RegExp(`(${cutTokens.map(escaped).join('|')})`);
  return (text, add) => {
    const pieces = text.split(pattern);
    const parts = pieces.flatMap((piece, i): TextPart[] => {
      if (piece === '') return [];
      if (i % 2 === 1) return [ids.get(piece)!];
      return [i === 0 ? first(piece) : later(separator, piece)];
    });
    return framed(frame, add, parts);
  };
}

const uncut: TextCutter = (text, addSpecialTokens) => [{ text, addSpecialTokens, numLeadingIds: 0 }];

function first(text: string): Section {
  return { text, addSpecialTokens: false, numLeadingIds: 0 };
}

/** The longest added token stands in for the one before the section: it cannot grow into another one with the text. */
function later(separator: string, text: string): Section {
  return { text: separator + text, addSpecialTokens: false, numLeadingIds: 1 };
}

/** The ids that the post-processor puts around a text. */
interface Frame {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

function framed({ before, after }: Frame, addSpecialTokens: boolean, parts: readonly TextPart[]): TextPart[] {
  return addSpecialTokens ? [before, ...parts, after] : [...parts];
}

/** Null if the post-processor does anything else. */
function frameOf(library: LibraryTokenizer): Frame | null {
  const marker = '\0text\0';
  const process = (addSpecialTokens: boolean) =>
    library.post_processor?.post_process([marker], null, addSpecialTokens).tokens ?? [marker];
  const bare = process(false);
  const tokens = process(true);
  const at = tokens.indexOf(marker);
  if (bare.length !== 1 || bare[0] !== marker || at < 0 || tokens.lastIndexOf(marker) !== at) return null;
  const ids = library.encode('', { add_special_tokens: true }).ids;
  return ids.length === tokens.length - 1 ? { before: ids.slice(0, at), after: ids.slice(at) } : null;
}

function encodeAlone(library: LibraryTokenizer, text: string): readonly number[] {
  return library.encode(text, { add_special_tokens: false }).ids;
}

function escaped(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
}
