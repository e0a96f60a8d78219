// What `vllm-pd model inspect` shows: everything about a model folder that decides what serving it costs.
import type { Backend } from '../config.js';
import { hasCheckpoint, readCheckpoint } from './checkpoint.js';
import { type HistoryChange, historyChanges } from './history-changes.js';
import { type HistoryRoundTrip, historyRoundTrip } from './history-round-trip.js';
import type { ModelConfig } from './model-config.js';
import { loadModelTexts } from './model-folder.js';
import { expectedTensors, numElements } from './model-tensors.js';
import { listOnnxFiles, onnxBytes } from './onnx-files.js';
import type { RopeParameters } from './rope.js';

/** Field names are those of config.json where it has them. */
export interface ModelReport {
  readonly path: string;
  readonly model_type: string;
  /** Those that find their weights in the folder. */
  readonly backends: readonly Backend[];
  readonly num_parameters: number;
  /** Of the safetensors; empty without them. */
  readonly dtypes: readonly string[];
  /** Of the safetensors, else of the exported decoder. */
  readonly weights_bytes: number;
  readonly num_hidden_layers: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly head_dim: number;
  readonly qk_norm: boolean;
  readonly attention_bias: boolean;
  readonly tie_word_embeddings: boolean;
  readonly rope: RopeParameters;
  readonly max_position_embeddings: number;
  /** Keys that a query sees, and in how many of the layers; null = all in all. */
  readonly sliding_window: { readonly size: number; readonly num_layers: number } | null;
  readonly vocab_size: number;
  readonly tokenizer_size: number;
  readonly block_size: number;
  readonly kv_bytes_per_token: number;
  readonly kv_bytes_per_block: number;
  readonly eos_token_ids: readonly number[];
  readonly num_suppressed_tokens: number;
  readonly history_round_trip: HistoryRoundTrip;
  /** Kinds of answers that the chat template changes. */
  readonly history_changes: readonly HistoryChange[];
}

/** KV is kept in float32. */
const kvBytesPerElement = 4;

/** Reads headers only, no weights. Throws NOT_FOUND or BAD_FILE. */
export async function inspectModel(modelPath: string, blockSize: number): Promise<ModelReport> {
  const texts = await loadModelTexts(modelPath);
  const { config, tokenizer, generationConfig } = texts;
  const kvBytesPerToken = config.numLayers * 2 * config.numKvHeads * config.headDim * kvBytesPerElement;
  return {
    path: modelPath,
    model_type: config.modelType,
    ...(await inspectWeights(modelPath, config)),
    num_parameters: expectedTensors(config).reduce((sum, { shape }) => sum + numElements(shape), 0),
    num_hidden_layers: config.numLayers,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_attention_heads: config.numHeads,
    num_key_value_heads: config.numKvHeads,
    head_dim: config.headDim,
    qk_norm: config.qkNorm,
    attention_bias: config.attentionBias,
    tie_word_embeddings: config.tieWordEmbeddings,
    rope: config.rope,
    max_position_embeddings: config.maxPositionEmbeddings,
    sliding_window: config.window && {
      size: config.window.size,
      num_layers: config.window.layers.length,
    },
    vocab_size: config.vocabSize,
    tokenizer_size: tokenizer.vocabSize,
    block_size: blockSize,
    kv_bytes_per_token: kvBytesPerToken,
    kv_bytes_per_block: kvBytesPerToken * blockSize,
    eos_token_ids: generationConfig.eosTokenIds,
    num_suppressed_tokens: generationConfig.suppressTokens.length,
    history_round_trip: historyRoundTrip(texts),
    history_changes: historyChanges(tokenizer, texts.chatTemplate),
  };
}

async function inspectWeights(
  modelPath: string,
  config: ModelConfig,
): Promise<Pick<ModelReport, 'backends' | 'dtypes' | 'weights_bytes'>> {
  const [onnx] = await listOnnxFiles(modelPath);
  if (onnx && !(await hasCheckpoint(modelPath))) {
    return { backends: ['onnx'], dtypes: [], weights_bytes: await onnxBytes(onnx) };
  }
  const tensors = await readCheckpoint(modelPath, config);
  return {
    backends: onnx ? ['cpu', 'onnx'] : ['cpu'],
    dtypes: [...new Set(tensors.map(({ dtype }) => dtype))],
    weights_bytes: tensors.reduce((sum, { length }) => sum + length, 0),
  };
}
