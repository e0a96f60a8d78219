// Dummy weights of a published shape, as vLLM's `--load-format dummy`, but in a model folder that any backend loads.
//
// The tokenizer is the embedded one: published ones are not ours to give away. The vocabulary keeps its published size;
// ids beyond the tokenizer's are padding and never sampled, so any answer re-tokenises to itself.
import { rm, statfs, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { VllmPdError } from '../errors.js';
import type { CreateOptions } from './default-model.js';
import {
  eosTokenId,
  generationConfigJson,
  tokenizerConfigJson,
  tokenizerJson,
  vocabSize as tokenizerSize,
} from './default-vocabulary.js';
import { type ModelConfig, readModelConfig } from './model-config.js';
import { type ModelType, modelFamilies } from './model-families.js';
import { expectedTensors, numElements, type TensorSpec } from './model-tensors.js';
import { exportOnnx } from './onnx-export.js';
import { type PublishedShape, publishedShapes } from './published-shapes.js';
import type { TensorSource } from './safetensors-writer.js';
import { constantTensor, seededTensor } from './seeded-weights.js';
import { writeShards } from './shard-writer.js';
import { storedTensors } from './stored-tensors.js';
import { writeWholeFolder } from './whole-folder.js';

export interface DummyOptions extends Omit<CreateOptions, 'arch'> {
  readonly arch: PublishedShape;
  /** Fewer or more layers than published. */
  readonly numLayers?: number;
  /** Default 4 GiB. A tensor is never cut, so a file may be larger. */
  readonly maxShardBytes?: number;
  /** What the disk has free, in bytes; for tests. */
  readonly freeBytes?: number;
}

const defaultMaxShardBytes = 2 ** 32;

/** Standard deviations that make an answer depend on its whole context; see default-model.ts. */
const logitsGain = 4;
const gains: Readonly<Record<string, number>> = {
  lm_head: logitsGain,
  // Where q and k are not normed, scores get their spread from the projections.
  q_proj: 2,
  k_proj: 2,
};
const embeddingGain = 0.25;
const qkNormGain = 2;
const biasStd = 0.1;

/**
 * Writes the folder, whole or not at all. Returns false, and changes nothing, if a folder with content is there
 * already. Throws INVALID_ARGUMENT if the disk has too little room.
 */
export function createDummyModel(folder: string, options: DummyOptions): Promise<boolean> {
  return writeWholeFolder(folder, (target) => writeFiles(target, options));
}

async function writeFiles(folder: string, options: DummyOptions): Promise<void> {
  const { seed, format = 'safetensors', onProgress } = options;
  const writeJson = (name: string, json: object) =>
    writeFile(path.join(folder, name), `${JSON.stringify(json)}\n`);
  await writeJson('config.json', configJson(options));
  const config = await readModelConfig(folder);
  await checkRoom(folder, config, options);
  await writeJson('generation_config.json', paddedGenerationConfig(config.vocabSize));
  await writeJson('tokenizer.json', tokenizerJson());
  await writeJson('tokenizer_config.json', tokenizerConfigJson(config.maxPositionEmbeddings));
  const tensors = storedTensors(config).map(
    ({ name, shape, parts }): TensorSource => ({
      name,
      shape,
      dtype: 'BF16',
      chunks: () => chunksOfAll(parts, seed, config),
    }),
  );
  const { maxShardBytes = defaultMaxShardBytes } = options;
  const files = await writeShards(folder, tensors, { maxShardBytes, ...(onProgress && { onProgress }) });
  if (format === 'safetensors') return;
  await exportOnnx(folder, onProgress);
  if (format === 'onnx') await Promise.all(files.map((file) => rm(path.join(folder, file))));
}

function configJson({ arch, numLayers }: DummyOptions): object {
  const shape: { readonly model_type: ModelType; readonly num_hidden_layers: number } = publishedShapes[arch];
  return {
    architectures: [modelFamilies[shape.model_type].architecture],
    vocab_size: tokenizerSize,
    hidden_act: 'silu',
    ...shape,
    num_hidden_layers: numLayers ?? shape.num_hidden_layers,
    torch_dtype: 'bfloat16',
    eos_token_id: eosTokenId,
  };
}

function paddedGenerationConfig(vocabSize: number): object {
  const { suppress_tokens, ...rest } = generationConfigJson();
  const padding = Array.from({ length: vocabSize - tokenizerSize }, (_, i) => tokenizerSize + i);
  return { ...rest, suppress_tokens: [...suppress_tokens, ...padding] };
}

async function checkRoom(folder: string, config: ModelConfig, options: DummyOptions): Promise<void> {
  const needed = weightsBytes(config, options.format ?? 'safetensors');
  const free = options.freeBytes ?? (await freeBytesAt(folder));
  if (needed <= free) return;
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  const message = `The weights take ${gib(needed)} while they are written, but ${path.dirname(folder)} has ${gib(free)} free.`;
  throw new VllmPdError('INVALID_ARGUMENT', message, {
    param: 'folder',
    suggestions: ['Write fewer layers with --num-layers.'],
  });
}

async function freeBytesAt(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

/** The ONNX decoder is made from safetensors, in float32, its output projection apart from the embedding. */
function weightsBytes(config: ModelConfig, format: CreateOptions['format']): number {
  const numParameters = expectedTensors(config).reduce((sum, { shape }) => sum + numElements(shape), 0);
  const bf16 = 2 * numParameters;
  if (format === 'safetensors') return bf16;
  return bf16 + 4 * (numParameters + (config.tieWordEmbeddings ? config.vocabSize * config.hiddenSize : 0));
}

function* chunksOfAll(parts: readonly TensorSpec[], seed: number, config: ModelConfig): Iterable<Uint8Array> {
  for (const part of parts) yield* chunksOf(part, seed, config);
}

function chunksOf({ name, shape }: TensorSpec, seed: number, config: ModelConfig): Iterable<Uint8Array> {
  const size = numElements(shape);
  const [part, kind] = name.split('.').slice(-2) as [string, string];
  if (kind === 'bias') return seededTensor(seed, name, size, biasStd);
  if (shape.length === 1) return constantTensor(size, normGain(name, part, config));
  // An embedding is looked up, not summed over, unless it is the output projection too.
  const isLookedUp = part === 'embed_tokens' && !config.tieWordEmbeddings;
  const fanIn = isLookedUp ? 1 : shape[1]!;
  return seededTensor(seed, name, size, (isLookedUp ? embeddingGain : (gains[part] ?? 1)) / Math.sqrt(fanIn));
}

/**
 * A tied embedding is small, or a token's own would make the token its own successor; the last norm makes up for it
 * in the logits.
 */
function normGain(name: string, part: string, config: ModelConfig): number {
  if (part === 'q_norm' || part === 'k_norm') return qkNormGain;
  return name === 'model.norm.weight' && config.tieWordEmbeddings ? logitsGain : 1;
}
