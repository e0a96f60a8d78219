// generation_config.json: where generation stops, what it must not say, and the model's sampling defaults.
import { z } from 'zod';
import type { ModelConfig } from './model-config.js';
import { idList } from './model-config.js';
import { badFile, parseAs, readJsonFile } from './model-files.js';

export interface GenerationConfig {
  readonly eosTokenIds: readonly number[];
  /** Ids that are never sampled, ascending. */
  readonly suppressTokens: readonly number[];
  /** Sampling defaults for requests that bring none; absent = vLLM's own default. */
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
}

const tokenId = z.int().min(0);

const generationSchema = z.looseObject({
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
  suppress_tokens: z.array(tokenId).nullish(),
  temperature: z.number().min(0).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  top_k: z.int().min(-1).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().positive().nullish(),
});

/** Reads `generation_config.json`; without one, config.json's end-of-sequence ids and no defaults. */
export async function readGenerationConfig(
  modelPath: string,
  config: Pick<ModelConfig, 'vocabSize' | 'eosTokenIds'>,
): Promise<GenerationConfig> {
  const json = await readJsonFile(modelPath, 'generation_config.json');
  const file = parseAs(generationSchema, json ?? {}, modelPath, 'generation_config.json');
  const eosTokenIds = idList(file.eos_token_id ?? config.eosTokenIds);
  const suppressTokens = [...new Set(file.suppress_tokens ?? [])].sort((a, b) => a - b);
  const outside = [...eosTokenIds, ...suppressTokens].find((id) => id >= config.vocabSize);
  if (outside !== undefined) {
    const what = `names token ${outside}, but the vocabulary has ${config.vocabSize} tokens`;
    throw badFile(modelPath, 'generation_config.json', what);
  }
  if (suppressTokens.length === config.vocabSize) {
    throw badFile(modelPath, 'generation_config.json', 'suppresses every token of the vocabulary');
  }
  return {
    eosTokenIds,
    suppressTokens,
    ...(file.temperature != null && { temperature: file.temperature }),
    ...(file.top_p != null && { topP: file.top_p }),
    ...(file.top_k != null && { topK: Math.max(0, file.top_k) }),
    ...(file.min_p != null && { minP: file.min_p }),
    ...(file.repetition_penalty != null && { repetitionPenalty: file.repetition_penalty }),
  };
}
