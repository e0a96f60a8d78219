// Texts of an exact number of tokens for any tokenizer: words are added and dropped until the server's count is right.
import { readFileSync } from 'node:fs';
import { messageOf, VllmPdError } from '../errors.js';
import type { Random } from './random.js';

/** Token count of a text, asked of the server, without special tokens. */
export type CountTokens = (text: string) => Promise<number>;

/** Made-up words of two syllables, as the embedded models have them: there each is one token with its leading space. */
const syllables = [...'bdfghjklmnprstvz'].flatMap((consonant) =>
  [...'aiou'].map((vowel) => consonant + vowel),
);

/** The words of the given files in order, from a place that `random` chooses, over and over; else made-up words. */
export function wordSource(textFiles: readonly string[], random: Random): () => string {
  const syllable = () => syllables[random.integer(0, syllables.length - 1)]!;
  if (textFiles.length === 0) return () => syllable() + syllable();
  const words = textFiles.flatMap(readWords);
  let next = random.integer(0, words.length - 1);
  return () => words[next++ % words.length]!;
}

function readWords(file: string): string[] {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new VllmPdError('BAD_FILE', `Cannot read the text file ${file}: ${messageOf(cause)}.`, { cause });
  }
  const words = text.split(/\s+/).filter(Boolean);
  if (words.length > 0) return words;
  throw new VllmPdError('BAD_FILE', `Expected words in the text file ${file} but it is empty.`);
}

/** Short endings that close the last gap where no whole word fits. */
const fillers = [' a', ' the', ' I', ' is', 'a', '.', ' it'];
const maxCalls = 24;

/**
 * A text of exactly `numTokens` tokens, each word with its leading space; of a few tokens less where the tokenizer
 * allows no such text. One call where every word is one token.
 */
export async function textOfTokens(
  numTokens: number,
  nextWord: () => string,
  count: CountTokens,
): Promise<string> {
  if (numTokens <= 0) return '';
  let words = Array.from({ length: numTokens }, nextWord);
  const join = () => words.map((word) => ` ${word}`).join('');
  let have = await count(join());
  for (let calls = 1; have !== numTokens && calls < maxCalls; calls++) {
    const tokensPerWord = have / words.length;
    const numMissing = numTokens - have;
    if (numMissing < 0) {
      if (words.length === 1) return (await fill('', 0, numTokens, count)) || join();
      words = words.slice(0, Math.max(1, words.length - Math.ceil(-numMissing / tokensPerWord)));
    } else if (numMissing < 2 * tokensPerWord) {
      return fill(join(), have, numTokens, count);
    } else {
      words.push(...Array.from({ length: Math.floor(numMissing / tokensPerWord) }, nextWord));
    }
    have = await count(join());
  }
  return join();
}

/** Closes a gap of a few tokens. */
async function fill(text: string, have: number, numTokens: number, count: CountTokens): Promise<string> {
  let filled = text;
  let total = have;
  for (let calls = 0; total < numTokens && calls < maxCalls; calls++) {
    const longer = filled + fillers[calls % fillers.length];
    const longerTotal = await count(longer);
    if (longerTotal > total && longerTotal <= numTokens) [filled, total] = [longer, longerTotal];
  }
  return filled;
}
