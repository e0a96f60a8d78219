// tokenizer.json: text ↔ token ids, and the piece of text or bytes that each id stands for.
import type { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { z } from 'zod';
import { VllmPdError } from '../errors.js';
import { SectionEncoder } from './section-encoder.js';
import { loadTokenizerFiles, notATokenizer, type TokenizerFiles } from './tokenizer-files.js';

/**
 * What one id adds to a text. `bytes` join with their neighbours before they are read as UTF-8; `text` stands alone.
 * `special` ids are left out on request.
 */
export type TokenPiece =
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array; readonly special: boolean }
  | { readonly kind: 'text'; readonly text: string; readonly special: boolean };

/** `bos_token` etc. of tokenizer_config.json: the text of each special token that has a role. */
export type SpecialTokens = Readonly<Partial<Record<SpecialTokenRole, string>>>;

const roles = ['bos_token', 'eos_token', 'unk_token', 'pad_token'] as const;
type SpecialTokenRole = (typeof roles)[number];

const decoderSchema = z.looseObject({ type: z.string(), decoders: z.unknown().optional() });

const empty: TokenPiece = { kind: 'text', text: '', special: false };

export class Tokenizer {
  /** One more than the highest id; a model's vocabulary may be padded beyond it. */
  readonly vocabSize: number;
  /** Ids that `skipSpecialTokens` leaves out, ascending. */
  readonly specialTokenIds: readonly number[];
  readonly specialTokens: SpecialTokens;
  /** For people: `BPE, byte-level`, `BPE, SentencePiece-style`, `Unigram`… */
  readonly kind: string;
  readonly #library: LibraryTokenizer;
  readonly #encoder: SectionEncoder;
  readonly #special: ReadonlySet<number>;
  readonly #added: ReadonlySet<number>;
  readonly #decoderTypes: ReadonlySet<string>;
  readonly #pieces = new Map<number, TokenPiece>();

  private constructor(files: TokenizerFiles) {
    const { library, addedTokens, config } = files;
    this.#library = library;
    this.#encoder = new SectionEncoder(files);
    this.#added = new Set(addedTokens.map(({ id }) => id));
    this.#special = new Set(addedTokens.filter((token) => token.special).map(({ id }) => id));
    this.specialTokenIds = [...this.#special].sort((a, b) => a - b);
    this.vocabSize = highest([...library.get_vocab().values()]) + 1;
    this.#decoderTypes = new Set(decoderTypes(files.decoder));
    this.kind = kindOf(files.modelType, this.#decoderTypes);
    this.specialTokens = Object.fromEntries(
      roles.flatMap((role) => (config[role] == null ? [] : [[role, config[role]]])),
    );
  }

  /** Reads `tokenizer.json` and `tokenizer_config.json`. Throws NOT_FOUND or BAD_FILE. */
  static async load(modelPath: string): Promise<Tokenizer> {
    const files = await loadTokenizerFiles(modelPath);
    try {
      return new Tokenizer(files);
    } catch (error) {
      throw notATokenizer(modelPath, error);
    }
  }

  /**
   * `addSpecialTokens`: what the tokenizer puts around a text by itself, e.g. a beginning-of-text token. What of the
   * text was not encoded lately takes some 5 ms for 1000 tokens; the rest of a conversation is remembered.
   */
  encode(text: string, { addSpecialTokens = true } = {}): number[] {
    return this.#encoder.encode(text, addSpecialTokens);
  }

  /** How long, in characters, what `encode` has to do is: what it did lately costs nothing. */
  numUnknownCharacters(text: string, { addSpecialTokens = true } = {}): number {
    return this.#encoder.numUnknownCharacters(text, addSpecialTokens);
  }

  /** Throws INVALID_ARGUMENT for an id outside `[0, vocabSize)`. Bytes that are no UTF-8 become U+FFFD. */
  decode(ids: readonly number[], { skipSpecialTokens = true } = {}): string {
    const known = ids.filter((id) => this.#tokenOf(id) !== undefined);
    if (known.length === 0) return '';
    return this.#library.decode(known, { skip_special_tokens: skipSpecialTokens });
  }

  /** Each id as the vocabulary writes it, e.g. `Ġword`; '' for a gap. Throws INVALID_ARGUMENT as `decode` does. */
  tokenStrings(ids: readonly number[]): string[] {
    return ids.map((id) => this.#tokenOf(id) ?? '');
  }

  /** The id of a token as the vocabulary writes it. */
  idOf(token: string): number | undefined {
    return this.#library.token_to_id(token);
  }

  /** What `id` adds to a text that goes on; nothing for an id that is not in the vocabulary. */
  piece(id: number): TokenPiece {
    let piece = this.#pieces.get(id);
    if (!piece) {
      piece = this.#makePiece(id);
      this.#pieces.set(id, piece);
    }
    return piece;
  }

  #makePiece(id: number): TokenPiece {
    const token = this.#library.id_to_token(id);
    if (token === undefined) return empty;
    const special = this.#special.has(id);
    if (this.#added.has(id)) return { kind: 'text', text: token, special };
    if (this.#decoderTypes.has('ByteLevel')) return { kind: 'bytes', bytes: byteLevelBytes(token), special };
    const byte = this.#decoderTypes.has('ByteFallback') ? /^<0x([0-9A-Fa-f]{2})>$/.exec(token) : null;
    if (byte) return { kind: 'bytes', bytes: Uint8Array.of(Number.parseInt(byte[1]!, 16)), special };
    // A decoder may treat the first token of a text differently (strip its space), so the second is looked at.
    const once = this.#library.decode([id]);
    return { kind: 'text', text: this.#library.decode([id, id]).slice(once.length), special };
  }

  #tokenOf(id: number): string | undefined {
    if (!Number.isInteger(id) || id < 0 || id >= this.vocabSize) {
      const message = `Expected token ids from 0 to ${this.vocabSize - 1} but received ${id}.`;
      throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'tokens' });
    }
    return this.#library.id_to_token(id);
  }
}

function highest(ids: readonly number[]): number {
  return ids.reduce((most, id) => Math.max(most, id), -1);
}

function decoderTypes(decoder: unknown): string[] {
  const parsed = decoderSchema.safeParse(decoder);
  if (!parsed.success) return [];
  const nested = Array.isArray(parsed.data.decoders) ? parsed.data.decoders : [];
  return [parsed.data.type, ...nested.flatMap(decoderTypes)];
}

/**
 * GPT-2's byte alphabet: printable Latin-1 characters stand for themselves, the other 68 bytes for U+0100 onwards.
 * Index = byte, value = character.
 */
export const byteAlphabet: readonly string[] = makeByteAlphabet();

function makeByteAlphabet(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : next++);
  });
}

const byteOfCharacter = new Map(byteAlphabet.map((character, byte) => [character, byte]));

function byteLevelBytes(token: string): Uint8Array {
  const bytes = [...token].map((character) => byteOfCharacter.get(character));
  return bytes.includes(undefined) ? Buffer.from(token, 'utf8') : Uint8Array.from(bytes as number[]);
}

function kindOf(modelType: string | null, decoders: ReadonlySet<string>): string {
  const style = decoders.has('ByteLevel')
    ? 'byte-level'
    : ['Metaspace', 'ByteFallback', 'Replace'].some((type) => decoders.has(type)) && 'SentencePiece-style';
  return [modelType ?? 'unnamed', style].filter(Boolean).join(', ');
}
