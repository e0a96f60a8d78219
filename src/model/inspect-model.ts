// What `vllm-pd model inspect` shows: everything about a model folder that decides what serving it costs.
import path from 'node:path';
import { type Backend, kvElementBytes } from '../config.js';
import { VllmPdError } from '../errors.js';
import { hasCheckpoint, readCheckpoint } from './checkpoint.js';
import { type HistoryChange, historyChanges } from './history-changes.js';
import { type HistoryRoundTrip, historyRoundTrip } from './history-round-trip.js';
import { type ModelConfig, readModelConfig } from './model-config.js';
import { readJsonFile } from './model-files.js';
import { loadModelTexts, loadTextsAlone } from './model-folder.js';
import { expectedTensors, numElements } from './model-tensors.js';
import { listOnnxFiles, type OnnxFiles, onnxBytes } from './onnx-files.js';
import type { RopeParameters } from './rope.js';

/** Field names are those of config.json where it has them. */
export interface ModelReport extends Partial<DecoderReport> {
  readonly path: string;
  readonly model_type: string;
  /** Those that find their weights in the folder and can run them. */
  readonly backends: readonly Backend[];
  /** Why the native module cannot run it, with the field's name; null if it can, or has no weights to run. */
  readonly unsupported: string | null;
  /** Of the safetensors; empty without them. */
  readonly dtypes: readonly string[];
  /** Of the safetensors, else of the exported decoder. */
  readonly weights_bytes: number;
  /** Names of the exported graphs, the one that is run by default first. */
  readonly onnx_files: readonly string[];
  readonly max_position_embeddings: number;
  readonly vocab_size: number;
  readonly tokenizer: string;
  readonly tokenizer_size: number;
  /** The file that the chat template is in; null without one. */
  readonly chat_template: string | null;
  readonly eos_token_ids: readonly number[];
  readonly num_suppressed_tokens: number;
  readonly history_round_trip: HistoryRoundTrip;
  /** Kinds of answers that the chat template changes. */
  readonly history_changes: readonly HistoryChange[];
}

/** Of a decoder that the native module knows. */
export interface DecoderReport {
  readonly num_parameters: number;
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
  /** Keys that a query sees, and in how many of the layers; null = all in all. */
  readonly sliding_window: { readonly size: number; readonly num_layers: number } | null;
  readonly block_size: number;
  /** As float32; `kv_bytes_per_token_bfloat16` is what --kv-cache-dtype bfloat16 makes of it. */
  readonly kv_bytes_per_token: number;
  readonly kv_bytes_per_token_bfloat16: number;
  readonly kv_bytes_per_block: number;
}

/**
 * Reads headers only, no weights. Throws NOT_FOUND, or BAD_FILE for what no backend can run, with the field's name. A
 * folder that ONNX Runtime alone can run is described without its decoder.
 */
export async function inspectModel(modelPath: string, blockSize: number): Promise<ModelReport> {
  const graphs = await listOnnxFiles(modelPath);
  const known = await readModelConfig(modelPath).catch((error: unknown) => {
    if (graphs.length === 0 || !(error instanceof VllmPdError)) throw error;
    return error;
  });
  const config = known instanceof VllmPdError ? null : known;
  const texts = config ? await loadModelTexts(modelPath) : await loadTextsAlone(modelPath);
  const { tokenizer, generationConfig, chatTemplate } = texts;
  return {
    path: modelPath,
    model_type: config?.modelType ?? (await modelTypeOf(modelPath)),
    ...(config ? await inspectWeights(modelPath, config, graphs) : await inspectGraphs(graphs)),
    unsupported: known instanceof VllmPdError ? known.message : null,
    onnx_files: graphs.map(({ graph }) => path.basename(graph)),
    ...(config && describeDecoder(config, blockSize)),
    max_position_embeddings: texts.config.maxPositionEmbeddings,
    vocab_size: texts.config.vocabSize,
    tokenizer: tokenizer.kind,
    tokenizer_size: tokenizer.vocabSize,
    chat_template: chatTemplate.source,
    eos_token_ids: generationConfig.eosTokenIds,
    num_suppressed_tokens: generationConfig.suppressTokens.length,
    history_round_trip: historyRoundTrip(texts),
    history_changes: historyChanges(tokenizer, chatTemplate),
  };
}

function describeDecoder(config: ModelConfig, blockSize: number): DecoderReport {
  const numElementsPerToken = config.numLayers * 2 * config.numKvHeads * config.headDim;
  return {
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
    sliding_window: config.window && {
      size: config.window.size,
      num_layers: config.window.layers.length,
    },
    block_size: blockSize,
    kv_bytes_per_token: numElementsPerToken * kvElementBytes.float32,
    kv_bytes_per_token_bfloat16: numElementsPerToken * kvElementBytes.bfloat16,
    kv_bytes_per_block: numElementsPerToken * kvElementBytes.float32 * blockSize,
  };
}

async function modelTypeOf(modelPath: string): Promise<string> {
  const { model_type } = (await readJsonFile(modelPath, 'config.json')) as { readonly model_type?: unknown };
  return typeof model_type === 'string' ? model_type : 'unnamed';
}

type WeightsReport = Pick<ModelReport, 'backends' | 'dtypes' | 'weights_bytes'>;

async function inspectGraphs([first]: readonly OnnxFiles[]): Promise<WeightsReport> {
  return { backends: ['onnx'], dtypes: [], weights_bytes: first ? await onnxBytes(first) : 0 };
}

async function inspectWeights(
  modelPath: string,
  config: ModelConfig,
  graphs: readonly OnnxFiles[],
): Promise<WeightsReport> {
  if (graphs.length > 0 && !(await hasCheckpoint(modelPath))) return inspectGraphs(graphs);
  const tensors = await readCheckpoint(modelPath, config);
  return {
    backends: graphs.length > 0 ? ['cpu', 'onnx'] : ['cpu'],
    dtypes: [...new Set(tensors.map(({ dtype }) => dtype))],
    weights_bytes: tensors.reduce((sum, { length }) => sum + length, 0),
  };
}
