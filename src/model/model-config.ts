// config.json of a decoder of a supported family, checked before any weight is read.
import { z } from 'zod';
import type { NativeModelConfig } from '../native/model-config.js';
import { type ConfigFile, configSchema, Refusal } from './config-file.js';
import { isModelType, type ModelFamily, type ModelType, modelFamilies } from './model-families.js';
import { badFile, checkIsModelFolder, parseAs, readJsonFile } from './model-files.js';
import { inverseFrequencies, type RopeParameters, ropeAttentionScaling } from './rope.js';
import { readRope, scaledMaxPositions } from './rope-config.js';
import { readSlidingWindow, type SlidingWindow, windowsByLayer } from './sliding-window.js';

export interface ModelConfig extends NativeModelConfig {
  readonly modelType: ModelType;
  /** Longest sequence, in tokens. A sliding window does not shorten it. */
  readonly maxPositionEmbeddings: number;
  readonly rope: RopeParameters;
  readonly window: SlidingWindow | null;
  /** The checkpoint holds q, k, v as one tensor, and gate, up as another. */
  readonly fusedProjections: boolean;
  /** End-of-sequence ids as config.json has them; generation_config.json may say otherwise. */
  readonly eosTokenIds: readonly number[];
}

/** What config.json leaves to the node. */
export interface ModelConfigOptions {
  /**
   * Longest sequence that the node will take, in tokens; default: what the model can. Chooses between longrope's
   * frequencies.
   */
  readonly maxModelLen?: number;
}

/** Throws a refusal by field unless the file describes a decoder that the forward pass can run. */
function checkSupported(file: ConfigFile, family: ModelFamily, numKvHeads: number, headDim: number): void {
  const { model_type: type, hidden_act: act } = file;
  const rules: readonly (readonly [field: string, broken: boolean, why: string])[] = [
    ['hidden_act', act !== 'silu' && act !== 'swish', `'${act}' is not supported, only 'silu'`],
    [
      'attention_bias',
      file.attention_bias && family.attentionBias !== 'as_configured',
      `true is not supported for ${type}`,
    ],
    ['mlp_bias', file.mlp_bias && !family.mayHaveMlpBias, `true is not supported for ${type}`],
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
  if (broken) throw new Refusal(broken[0], broken[2]);
}

/** Layers without rotation, ascending. In `no_rope_layers`, for all its name, 1 stands for a layer with rotation. */
function noRopeLayers(file: ConfigFile, family: ModelFamily): number[] {
  const { no_rope_layers: marks, no_rope_layer_interval: interval, num_hidden_layers: numLayers } = file;
  const layers = Array.from({ length: numLayers }, (_, layer) => layer);
  if (marks == null) {
    // SmolLM3's own default.
    return family.mayLackRope ? layers.filter((layer) => (layer + 1) % (interval ?? 4) === 0) : [];
  }
  const lacking = layers.filter((layer) => !marks[layer]);
  if (marks.length !== numLayers) {
    throw new Refusal('no_rope_layers', `has ${marks.length} entries for ${numLayers} layers`);
  }
  if (lacking.length > 0 && !family.mayLackRope) {
    throw new Refusal('no_rope_layers', `is not supported for ${file.model_type}`);
  }
  return lacking;
}

export function idList(ids: number | readonly number[] | null | undefined): readonly number[] {
  return ids == null ? [] : typeof ids === 'number' ? [ids] : ids;
}

/** Reads `config.json`. Throws NOT_FOUND or BAD_FILE, naming the field that is wrong or not supported. */
export async function readModelConfig(
  modelPath: string,
  { maxModelLen }: ModelConfigOptions = {},
): Promise<ModelConfig> {
  await checkIsModelFolder(modelPath);
  const json = await readJsonFile(modelPath, 'config.json');
  const typeSchema = z.looseObject({ model_type: z.string() });
  const { model_type: modelType } = parseAs(typeSchema, json, modelPath, 'config.json');
  try {
    if (!isModelType(modelType)) {
      const known = Object.keys(modelFamilies).join(', ');
      throw new Refusal('model_type', `'${modelType}' is not supported, only ${known}`);
    }
    const file = parseAs(configSchema, json, modelPath, 'config.json');
    return configOf(file, modelType, maxModelLen ?? null);
  } catch (error) {
    throw error instanceof Refusal ? badFile(modelPath, 'config.json', error.message) : error;
  }
}

function configOf(file: ConfigFile, modelType: ModelType, maxModelLen: number | null): ModelConfig {
  const family: ModelFamily = modelFamilies[modelType];
  const numKvHeads = file.num_key_value_heads ?? file.num_attention_heads;
  const headDim = file.head_dim ?? file.hidden_size / file.num_attention_heads;
  checkSupported(file, family, numKvHeads, headDim);
  const { rope, rotaryDim } = readRope(file, headDim, maxModelLen);
  const window = readSlidingWindow(file, family);
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
    qkNorm: family.qkNorm,
    attentionBias: family.attentionBias === 'always' || file.attention_bias,
    outputBias: file.attention_bias,
    mlpBias: file.mlp_bias,
    tieWordEmbeddings: file.tie_word_embeddings,
    invFreq: inverseFrequencies(rotaryDim, rope),
    ropeAttentionScaling: ropeAttentionScaling(rope),
    noRopeLayers: noRopeLayers(file, family),
    maxPositionEmbeddings: scaledMaxPositions(rope, file.max_position_embeddings),
    rope,
    window,
    ...(window && { slidingWindows: windowsByLayer(window, file.num_hidden_layers) }),
    fusedProjections: family.fusedProjections,
    eosTokenIds: idList(file.eos_token_id),
  };
}
