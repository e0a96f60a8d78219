// The embedded models: a small Qwen3-style decoder with seeded weights for real work, a tiny one for tests.
import { rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import {
  eosTokenId,
  generationConfigJson,
  tokenizerConfigJson,
  tokenizerJson,
  vocabSize,
} from './default-vocabulary.js';
import { expectedTensors, numElements, type TensorSpec } from './model-tensors.js';
import { exportOnnx } from './onnx-export.js';
import { inverseFrequencies } from './rope.js';
import { type TensorSource, tensorBytes, writeSafetensors } from './safetensors-writer.js';
import { constantTensor, seededTensor } from './seeded-weights.js';
import { writeWholeFolder } from './whole-folder.js';

export const architectureNames = ['default', 'tiny'] as const;

export type ArchitectureName = (typeof architectureNames)[number];

interface Architecture {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

const architectures: Readonly<Record<ArchitectureName, Architecture>> = {
  // 28.6 million parameters, 57 MB
  default: {
    hiddenSize: 512,
    intermediateSize: 1536,
    numLayers: 8,
    numHeads: 8,
    numKvHeads: 2,
    headDim: 64,
  },
  // 0.7 million parameters, 1.4 MB. With two layers, an early token of a long prompt is too easily overlooked.
  tiny: { hiddenSize: 64, intermediateSize: 128, numLayers: 4, numHeads: 4, numKvHeads: 2, headDim: 16 },
};

const maxPositionEmbeddings = 32_768;
const ropeTheta = 10_000;

/**
 * Gains over unit variance. Chosen so that an answer depends on its whole context and does not run into a loop:
 * attention is sharp (scores with a standard deviation of about `qNorm · kNorm`), and what attention and MLP write
 * into the residual stream outweighs the token's own embedding. With the embedding on top, the next token would be a
 * function of the last one alone, which on 4096 words repeats itself after some 80 tokens; with flat attention
 * every position would see the same average.
 */
const gains = { embedding: 0.25, qkNorm: 2, attentionOutput: 1, mlpOutput: 1, logits: 4 } as const;

export type WeightsFormat = 'safetensors' | 'onnx' | 'both';

export interface CreateOptions {
  readonly arch: ArchitectureName;
  readonly seed: number;
  /** Default `safetensors`. */
  readonly format?: WeightsFormat;
  /** Told how much of a weights file, in [0, 1], is written; from the beginning again for the second one. */
  readonly onProgress?: (fraction: number) => void;
}

/**
 * Writes an embedded model's folder, whole or not at all. Returns false, and changes nothing, if a folder with
 * content is there already (also if another process was faster).
 */
export function createModelFolder(folder: string, options: CreateOptions): Promise<boolean> {
  return writeWholeFolder(folder, (target) => writeFiles(target, options));
}

async function writeFiles(
  folder: string,
  { arch, seed, format = 'safetensors', onProgress }: CreateOptions,
): Promise<void> {
  const writeJson = (name: string, json: object) =>
    writeFile(path.join(folder, name), `${JSON.stringify(json, null, 1)}\n`);
  await writeJson('config.json', configJson(architectures[arch]));
  await writeJson('generation_config.json', generationConfigJson());
  await writeJson('tokenizer.json', tokenizerJson());
  await writeJson('tokenizer_config.json', tokenizerConfigJson(maxPositionEmbeddings));
  const tensors = tensorSources(architectures[arch], seed);
  const total = tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
  const safetensors = path.join(folder, 'model.safetensors');
  await writeSafetensors(safetensors, tensors, (written) => onProgress?.(Math.min(1, written / total)));
  if (format === 'safetensors') return;
  await exportOnnx(folder, onProgress);
  if (format === 'onnx') await rm(safetensors);
}

function configJson(arch: Architecture): object {
  return {
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    vocab_size: vocabSize,
    hidden_size: arch.hiddenSize,
    intermediate_size: arch.intermediateSize,
    num_hidden_layers: arch.numLayers,
    num_attention_heads: arch.numHeads,
    num_key_value_heads: arch.numKvHeads,
    head_dim: arch.headDim,
    hidden_act: 'silu',
    rms_norm_eps: 1e-6,
    attention_bias: false,
    tie_word_embeddings: false,
    max_position_embeddings: maxPositionEmbeddings,
    rope_theta: ropeTheta,
    torch_dtype: 'bfloat16',
    eos_token_id: eosTokenId,
  };
}

function tensorSources(arch: Architecture, seed: number): TensorSource[] {
  const specs = expectedTensors({
    ...arch,
    vocabSize,
    rmsNormEps: 1e-6,
    qkNorm: true,
    attentionBias: false,
    tieWordEmbeddings: false,
    invFreq: inverseFrequencies(arch.headDim, { type: 'default', theta: ropeTheta }),
    ropeAttentionScaling: 1,
  });
  return specs.map((spec) => ({ ...spec, dtype: 'BF16', chunks: () => chunksOf(spec, seed) }));
}

function chunksOf(spec: TensorSpec, seed: number): Iterable<Uint8Array> {
  const size = numElements(spec.shape);
  const part = spec.name.split('.').at(-2)!;
  if (part === 'q_norm' || part === 'k_norm') return constantTensor(size, gains.qkNorm);
  if (spec.shape.length === 1) return constantTensor(size, 1);
  return seededTensor(seed, spec.name, size, gainOf(part) / Math.sqrt(fanIn(part, spec)));
}

function gainOf(part: string): number {
  if (part === 'embed_tokens') return gains.embedding;
  if (part === 'o_proj') return gains.attentionOutput;
  if (part === 'down_proj') return gains.mlpOutput;
  if (part === 'lm_head') return gains.logits;
  return 1;
}

/** An embedding is looked up, not summed over. */
function fanIn(part: string, spec: TensorSpec): number {
  return part === 'embed_tokens' ? 1 : spec.shape[1]!;
}
