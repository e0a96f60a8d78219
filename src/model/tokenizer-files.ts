// tokenizer.json and tokenizer_config.json → the library's tokenizer, and what it does not tell of them.
import { AddedToken, Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { z } from 'zod';
import { messageOf, type VllmPdError } from '../errors.js';
import { badFile, checkIsModelFolder, parseAs, readJsonFile } from './model-files.js';

const specialToken = z
  .union([z.string(), z.looseObject({ content: z.string() }).transform((token) => token.content)])
  .nullish();

const configSchema = z.looseObject({
  bos_token: specialToken,
  eos_token: specialToken,
  unk_token: specialToken,
  pad_token: specialToken,
});

export interface TokenizerFiles {
  readonly library: LibraryTokenizer;
  /** In the file's order. Two may share an id, of which the library's own list knows one only. */
  readonly addedTokens: readonly AddedToken[];
  /** `decoder` of tokenizer.json, as it stands there. */
  readonly decoder: unknown;
  /** BPE, Unigram, WordPiece…; null where tokenizer.json does not say. */
  readonly modelType: string | null;
  readonly config: z.infer<typeof configSchema>;
}

/** Throws NOT_FOUND or BAD_FILE. */
export async function loadTokenizerFiles(modelPath: string): Promise<TokenizerFiles> {
  await checkIsModelFolder(modelPath);
  const json = await readJsonFile(modelPath, 'tokenizer.json');
  if (json === undefined) throw badFile(modelPath, 'tokenizer.json', 'is missing');
  if (typeof json !== 'object' || json === null) {
    throw badFile(modelPath, 'tokenizer.json', 'is not a JSON object');
  }
  const configJson = (await readJsonFile(modelPath, 'tokenizer_config.json')) ?? {};
  const config = parseAs(configSchema, configJson, modelPath, 'tokenizer_config.json');
  try {
    // The library's default rewrites " ," to ",", and then a decoded answer is no longer what was generated.
    const library = new LibraryTokenizer(json, { ...config, clean_up_tokenization_spaces: false });
    const { added_tokens, decoder, model } = json as {
      added_tokens: readonly AddedToken[];
      decoder?: unknown;
      model?: { readonly type?: string };
    };
    const addedTokens = added_tokens.map((token) => new AddedToken(token));
    return { library, addedTokens, decoder, modelType: model?.type ?? null, config };
  } catch (error) {
    throw notATokenizer(modelPath, error);
  }
}

export function notATokenizer(modelPath: string, cause: unknown): VllmPdError {
  return badFile(modelPath, 'tokenizer.json', `is not a tokenizer (${messageOf(cause)})`, cause);
}
