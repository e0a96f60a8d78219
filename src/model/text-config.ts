// What config.json says about text alone: enough where the graph itself says how it is computed.
import { z } from 'zod';
import { idList } from './model-config.js';
import { badFile, checkIsModelFolder, parseAs, readJsonFile } from './model-files.js';

export interface TextConfig {
  readonly vocabSize: number;
  /** Longest sequence, in tokens. */
  readonly maxPositionEmbeddings: number;
  /** End-of-sequence ids as config.json has them; generation_config.json may say otherwise. */
  readonly eosTokenIds: readonly number[];
}

const name = 'config.json';
const size = z.int().min(1);
const tokenId = z.int().min(0);

const schema = z.looseObject({
  vocab_size: size,
  max_position_embeddings: size,
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
});

/** Any architecture. Throws NOT_FOUND, or BAD_FILE naming the field at fault. */
export async function readTextConfig(modelPath: string): Promise<TextConfig> {
  await checkIsModelFolder(modelPath);
  const json = await readJsonFile(modelPath, name);
  if (json === undefined) throw badFile(modelPath, name, 'is missing');
  const file = parseAs(schema, json, modelPath, name);
  return {
    vocabSize: file.vocab_size,
    maxPositionEmbeddings: file.max_position_embeddings,
    eosTokenIds: idList(file.eos_token_id),
  };
}
