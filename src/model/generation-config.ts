// generation_config.json: where generation stops, what it must not say, and the model's sampling defaults.
import { z } from 'zod';
import type { GenerationChoice } from '../config.js';
import { VllmPdError } from '../errors.js';
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
  /** Tokens that no answer exceeds; absent = what the context leaves. */
  readonly maxNewTokens?: number;
}

const tokenId = z.int().min(0);

const fileName = 'generation_config.json';

const samplingFields = {
  temperature: z.number().min(0).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  top_k: z.int().min(-1).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().positive().nullish(),
  max_new_tokens: z.int().min(1).nullish(),
};

const generationSchema = z.looseObject({
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
  suppress_tokens: z.array(tokenId).nullish(),
  ...samplingFields,
});

/** A name that nobody would look at is a mistake. */
const overridesSchema = z.strictObject(samplingFields);

type GenerationFile = z.infer<typeof generationSchema>;

const own: GenerationChoice = { source: 'auto', overrides: {} };

/**
 * Reads `generation_config.json`; without one, config.json's end-of-sequence ids and no defaults. Where sampling
 * defaults are to come from elsewhere, what ends and what may not be said is still the model's. Throws BAD_FILE, and
 * NOT_FOUND or INVALID_ARGUMENT for what `choice` names.
 */
export async function readGenerationConfig(
  modelPath: string,
  config: Pick<ModelConfig, 'vocabSize' | 'eosTokenIds'>,
  choice: GenerationChoice = own,
): Promise<GenerationConfig> {
  const json = await readJsonFile(modelPath, fileName);
  const file = parseAs(generationSchema, json ?? {}, modelPath, fileName);
  return {
    ...endings(modelPath, file, config),
    ...(choice.source === 'auto'
      ? samplingDefaults(file, false)
      : samplingDefaults(await sourceOf(choice), true)),
    ...samplingDefaults(parseOverrides(choice.overrides), true),
  };
}

function endings(
  modelPath: string,
  file: GenerationFile,
  config: Pick<ModelConfig, 'vocabSize' | 'eosTokenIds'>,
): Pick<GenerationConfig, 'eosTokenIds' | 'suppressTokens'> {
  const eosTokenIds = idList(file.eos_token_id ?? config.eosTokenIds);
  const suppressTokens = [...new Set(file.suppress_tokens ?? [])].sort((a, b) => a - b);
  const outside = [...eosTokenIds, ...suppressTokens].find((id) => id >= config.vocabSize);
  if (outside !== undefined) {
    const what = `names token ${outside}, but the vocabulary has ${config.vocabSize} tokens`;
    throw badFile(modelPath, fileName, what);
  }
  if (suppressTokens.length === config.vocabSize) {
    throw badFile(modelPath, fileName, 'suppresses every token of the vocabulary');
  }
  return { eosTokenIds, suppressTokens };
}

/** `max_new_tokens` of the model's own file is no limit, as with vLLM: published ones are meant for other programs. */
function samplingDefaults(file: GenerationFile, limits: boolean): Partial<GenerationConfig> {
  return {
    ...(file.temperature != null && { temperature: file.temperature }),
    ...(file.top_p != null && { topP: file.top_p }),
    ...(file.top_k != null && { topK: Math.max(0, file.top_k) }),
    ...(file.min_p != null && { minP: file.min_p }),
    ...(file.repetition_penalty != null && { repetitionPenalty: file.repetition_penalty }),
    ...(limits && file.max_new_tokens != null && { maxNewTokens: file.max_new_tokens }),
  };
}

/** The sampling fields of a folder that was named instead of the model's; `vllm` names none. */
async function sourceOf({ source }: GenerationChoice): Promise<GenerationFile> {
  if (source === 'vllm') return {};
  const json = await readJsonFile(source, fileName);
  if (json === undefined) {
    const message = `Expected auto, vllm or a folder with ${fileName} for --generation-config but received ${source}.`;
    throw new VllmPdError('NOT_FOUND', message, { param: 'generation-config' });
  }
  return parseAs(generationSchema, json, source, fileName);
}

function parseOverrides(overrides: GenerationChoice['overrides']): GenerationFile {
  const result = overridesSchema.safeParse(overrides);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const where = issue?.path.join('.');
  const message = `Expected sampling fields of ${fileName} in --override-generation-config but received others: ${
    where ? `${where}: ` : ''
  }${issue?.message}.`;
  throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'override-generation-config' });
}
