// config.json of a Llama, Mistral, Qwen2 or Qwen3 decoder, checked before any weight is read.
import { z } from 'zod';
import type { NativeModelConfig } from '../native.js';
import { badFile, checkIsModelFolder, parseAs, readJsonFile } from './model-files.js';
import { inverseFrequencies, type RopeParameters } from './rope.js';

const modelTypes = ['llama', 'mistral', 'qwen2', 'qwen3'] as const;

export type ModelType = (typeof modelTypes)[number];

export interface ModelConfig extends NativeModelConfig {
  readonly modelType: ModelType;
  /** Longest sequence, in tokens; a sliding window that is shorter counts, because attention here is full. */
  readonly maxPositionEmbeddings: number;
  readonly rope: RopeParameters;
  /** End-of-sequence ids as config.json has them; generation_config.json may say otherwise. */
  readonly eosTokenIds: readonly number[];
}

// Upper bounds keep a corrupt file from asking for absurd amounts of memory.
const size = (max: number) => z.int().min(1).max(max);
const tokenId = z.int().min(0);

const ropeSchema = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: z.number().positive().optional(),
  factor: z.number().min(1).optional(),
  low_freq_factor: z.number().positive().optional(),
  high_freq_factor: z.number().positive().optional(),
  original_max_position_embeddings: size(1 << 30).optional(),
  partial_rotary_factor: z.literal(1, 'is not supported unless it is 1').optional(),
});

const configSchema = z.looseObject({
  model_type: z.string(),
  vocab_size: size(1 << 24),
  hidden_size: size(1 << 20),
  intermediate_size: size(1 << 22),
  num_hidden_layers: size(1024),
  num_attention_heads: size(4096),
  num_key_value_heads: size(4096).nullish(),
  head_dim: size(4096).nullish(),
  rms_norm_eps: z.number().positive().max(1).default(1e-6),
  hidden_act: z.string().default('silu'),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(false),
  max_position_embeddings: size(1 << 30),
  rope_theta: z.number().positive().optional(),
  rope_scaling: ropeSchema.nullish(),
  rope_parameters: ropeSchema.nullish(),
  partial_rotary_factor: z.number().default(1),
  use_sliding_window: z.boolean().optional(),
  sliding_window: size(1 << 30).nullish(),
  layer_types: z.array(z.string()).nullish(),
  quantization_config: z.unknown().optional(),
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
});

type ConfigFile = z.infer<typeof configSchema>;

/** A refusal by field, or null if the file describes a decoder that the forward pass can run. */
function unsupported(file: ConfigFile, numKvHeads: number, headDim: number): string | null {
  const otherLayer = file.layer_types?.find((type) => type !== 'full_attention');
  const rules: readonly (readonly [field: string, broken: boolean, why: string])[] = [
    ['hidden_act', file.hidden_act !== 'silu', `'${file.hidden_act}' is not supported, only 'silu'`],
    ['attention_bias', file.attention_bias, 'true (with an output bias) is not supported'],
    ['mlp_bias', file.mlp_bias, 'true is not supported'],
    ['partial_rotary_factor', file.partial_rotary_factor !== 1, 'is not supported unless it is 1'],
    ['layer_types', otherLayer !== undefined, `'${otherLayer}' is not supported, only 'full_attention'`],
    ['quantization_config', file.quantization_config != null, 'quantised weights are not supported'],
    [
      'num_key_value_heads',
      file.num_attention_heads % numKvHeads !== 0,
      `${numKvHeads} does not divide num_attention_heads ${file.num_attention_heads}`,
    ],
    [
      'head_dim',
      !Number.isInteger(headDim),
      `is absent and hidden_size is no multiple of num_attention_heads`,
    ],
    ['head_dim', headDim % 2 !== 0, `${headDim} is odd, so it cannot be rotated in pairs`],
  ];
  const broken = rules.find((rule) => rule[1]);
  return broken ? `field '${broken[0]}': ${broken[2]}` : null;
}

function ropeOf(file: ConfigFile): RopeParameters | string {
  const scaling = { ...file.rope_scaling, ...file.rope_parameters };
  const type = scaling.rope_type ?? scaling.type ?? 'default';
  const theta = scaling.rope_theta ?? file.rope_theta ?? 10_000;
  const missing = (field: string) => `field 'rope_scaling.${field}': is required for rope type '${type}'`;
  if (type === 'default') return { type, theta };
  if (type !== 'linear' && type !== 'llama3') {
    return `field 'rope_scaling': type '${type}' is not supported, only 'default', 'linear' and 'llama3'`;
  }
  const factor = scaling.factor;
  if (factor === undefined) return missing('factor');
  if (type === 'linear') return { type, theta, factor };
  const lowFreqFactor = scaling.low_freq_factor;
  const highFreqFactor = scaling.high_freq_factor;
  const originalMaxPositionEmbeddings = scaling.original_max_position_embeddings;
  if (lowFreqFactor === undefined) return missing('low_freq_factor');
  if (highFreqFactor === undefined) return missing('high_freq_factor');
  if (originalMaxPositionEmbeddings === undefined) return missing('original_max_position_embeddings');
  if (highFreqFactor <= lowFreqFactor) {
    return `field 'rope_scaling.high_freq_factor': ${highFreqFactor} is not above low_freq_factor ${lowFreqFactor}`;
  }
  return { type, theta, factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings };
}

function longestSequence(file: ConfigFile): number {
  const slides = file.use_sliding_window ?? file.model_type === 'mistral';
  const window = slides ? (file.sliding_window ?? Infinity) : Infinity;
  return Math.min(file.max_position_embeddings, window);
}

export function idList(ids: number | readonly number[] | null | undefined): readonly number[] {
  return ids == null ? [] : typeof ids === 'number' ? [ids] : ids;
}

/** Reads `config.json`. Throws NOT_FOUND or BAD_FILE, naming the field that is wrong or not supported. */
export async function readModelConfig(modelPath: string): Promise<ModelConfig> {
  await checkIsModelFolder(modelPath);
  const refuse = (what: string) => badFile(modelPath, 'config.json', what);
  const json = await readJsonFile(modelPath, 'config.json');
  const { model_type: modelTypeName } = parseAs(
    z.looseObject({ model_type: z.string() }),
    json,
    modelPath,
    'config.json',
  );
  const modelType = modelTypes.find((type) => type === modelTypeName);
  if (!modelType) {
    throw refuse(`field 'model_type': '${modelTypeName}' is not supported, only ${modelTypes.join(', ')}`);
  }

  const file = parseAs(configSchema, json, modelPath, 'config.json');
  const numKvHeads = file.num_key_value_heads ?? file.num_attention_heads;
  const headDim = file.head_dim ?? file.hidden_size / file.num_attention_heads;
  const reason = unsupported(file, numKvHeads, headDim);
  if (reason !== null) throw refuse(reason);
  const rope = ropeOf(file);
  if (typeof rope === 'string') throw refuse(rope);

  return {
    modelType,
    vocabSize: file.vocab_size,
    hiddenSize: file.hidden_size,
    intermediateSize: file.intermediate_size,
    numLayers: file.num_hidden_layers,
    numHeads: file.num_attention_heads,
    numKvHeads,
    headDim,
    rmsNormEps: file.rms_norm_eps,
    qkNorm: modelType === 'qwen3',
    attentionBias: modelType === 'qwen2',
    tieWordEmbeddings: file.tie_word_embeddings,
    invFreq: inverseFrequencies(headDim, rope),
    ropeAttentionScaling: 1,
    maxPositionEmbeddings: longestSequence(file),
    rope,
    eosTokenIds: idList(file.eos_token_id),
  };
}
