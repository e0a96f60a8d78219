// What a model is loaded from, and how it is to run.
import type { KvCacheDtype } from '../config.js';

/** What the forward pass needs to know of a decoder; weights shapes follow from it. */
export interface NativeModelConfig {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly rmsNormEps: number;
  /** RMSNorm over head_dim on q and k before the rotary embedding (Qwen3). */
  readonly qkNorm: boolean;
  /** Biases on q, k, v (Qwen2, and Llama with `attention_bias`). */
  readonly attentionBias: boolean;
  /** A bias on the attention's output projection (Llama with `attention_bias`); default false. */
  readonly outputBias?: boolean;
  /** Biases on the MLP's three projections (Llama with `mlp_bias`); default false. */
  readonly mlpBias?: boolean;
  readonly tieWordEmbeddings: boolean;
  /**
   * (rotary_dim / 2) rotary inverse frequencies, any rope scaling already applied. Only the first rotary_dim of a
   * head's dimensions are rotated, in pairs (i, i + rotary_dim / 2); the others stay as they are.
   */
  readonly invFreq: Float32Array;
  /** Layers, ascending, whose queries and keys are not rotated at all (SmolLM3); default none. */
  readonly noRopeLayers?: readonly number[];
  /**
   * (num_layers) Keys that a query sees at most, its own included: at position p those above p - window. 0 = all.
   * Absent: all, in every layer.
   */
  readonly slidingWindows?: readonly number[];
  /** Factor on cos and sin (1 unless a rope scaling asks for another). */
  readonly ropeAttentionScaling: number;
}

export type TensorDtype = 'F32' | 'BF16' | 'F16';

/** What weights are kept as, whatever the checkpoint has. */
export interface NativeWeights {
  readonly dtype: 'float32' | 'bfloat16';
  /** `int8`: matrices are quantised, one scale for each output channel, and so are the rows multiplied with them. */
  readonly quantization: 'int8' | null;
  /** Where the packed form is kept for the next start, and for other processes; absent = in memory only. */
  readonly cache?: PackedCache;
}

export interface PackedCache {
  /** Absolute paths, best first: one with the packed weights is mapped, else the first that can be written is. */
  readonly paths: readonly string[];
  /** Names the weights and what they are kept as, in at most 180 characters; a file made for another is replaced. */
  readonly key: string;
}

/** How a model came by its packed weights: from a file, from the checkpoint into a file, or into memory alone. */
export type WeightSource = 'mapped' | 'written' | 'memory';

/** Where one tensor lies in a safetensors file; the native module maps the file and converts. */
export interface TensorLocation {
  /** Hugging Face name, e.g. `model.layers.0.self_attn.q_proj.weight`. */
  readonly name: string;
  readonly path: string;
  readonly dtype: TensorDtype;
  readonly shape: readonly number[];
  /** Byte offset in the file, and length in bytes. */
  readonly offset: number;
  readonly length: number;
}

/** How a model runs on a GPU. Memory for steps of the given size is taken at once; larger steps take more. */
export interface CudaModelOptions {
  /** Of matrices and activations. */
  readonly dtype: 'bfloat16' | 'float16';
  /** Of the pools that it computes with: `dtype`, or fp8 where the chip has it. */
  readonly kvDtype: KvCacheDtype;
  /** Tokens that `forwardAndSample` never draws; default none. */
  readonly suppressTokenIds?: readonly number[];
  /** False: cuBLASLt where it is found, whose sums may depend on the number of rows. */
  readonly batchInvariant: boolean;
  /** Of one step. */
  readonly maxTokens: number;
  readonly maxRequests: number;
  /** Longest sequence, in tokens. */
  readonly maxPositions: number;
}
