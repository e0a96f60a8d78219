// The Model interface on the native module.
import type { DtypeChoice, Quantization } from '../config.js';
import { VllmPdError } from '../errors.js';
import { createLogger } from '../log.js';
import type { KvPool } from '../native/kv-pool.js';
import type { ForwardInput, NativeModel } from '../native/model.js';
import type { CudaModelOptions, NativeWeights } from '../native/model-config.js';
import { loadNative } from '../native.js';
import { readCheckpoint } from './checkpoint.js';
import type { Model } from './model.js';
import { type ModelConfig, type ModelConfigOptions, readModelConfig } from './model-config.js';
import { packedCache } from './packed-cache.js';

const log = createLogger('model');

class NativeDecoder implements Model {
  readonly vocabSize: number;
  readonly maxPositionEmbeddings: number;
  readonly kvShape: Model['kvShape'];
  readonly #native: NativeModel;

  constructor(config: ModelConfig, native: NativeModel) {
    const { numLayers, numKvHeads, headDim } = config;
    this.vocabSize = config.vocabSize;
    this.maxPositionEmbeddings = config.maxPositionEmbeddings;
    this.kvShape = { numLayers, numKvHeads, headDim };
    this.#native = native;
  }

  forward(pool: KvPool, input: ForwardInput): Promise<Float32Array> {
    return this.#native.forward(pool, input);
  }

  close(): void {
    this.#native.close();
  }
}

/** What weights are kept as on backends `cpu` and `cuda`; by default `auto` and `none`. */
export interface WeightChoice {
  readonly dtype?: DtypeChoice;
  readonly quantization?: Quantization;
}

/** What the choice comes to on this machine. Throws INVALID_ARGUMENT for what a GPU does not keep weights as. */
export function resolveWeights(
  { dtype = 'auto', quantization = 'none' }: WeightChoice,
  backend: 'cpu' | 'cuda',
): NativeWeights {
  if (backend === 'cuda') {
    if (dtype === 'float32') throw notOnGpu('dtype', 'auto or bfloat16', dtype);
    if (quantization !== 'none') throw notOnGpu('quantization', 'none', quantization);
    return { dtype: 'bfloat16', quantization: null };
  }
  return {
    dtype: dtype === 'auto' ? loadNative().defaultDtype : dtype,
    quantization: quantization === 'none' ? null : quantization,
  };
}

function notOnGpu(param: string, expected: string, received: string): VllmPdError {
  const message = `Expected --${param} ${expected} with --backend cuda but received ${received}.`;
  return new VllmPdError('INVALID_ARGUMENT', message, { param });
}

/** Loads config.json and the weights. Throws NOT_FOUND, BAD_FILE (config before weights) or NATIVE_UNAVAILABLE. */
export async function loadModel(
  modelPath: string,
  numThreads: number,
  options: ModelConfigOptions & WeightChoice = {},
): Promise<Model> {
  const config = await readModelConfig(modelPath, options);
  const tensors = await readCheckpoint(modelPath, config);
  const weights = resolveWeights(options, 'cpu');
  const cache = await packedCache(modelPath, tensors, weights);
  const startedAt = performance.now();
  const native = await loadNative().loadModel(config, tensors, numThreads, {
    ...weights,
    ...(cache && { cache }),
  });
  const { weightSource } = native;
  log.info({ ...weights, weightSource, ms: Math.round(performance.now() - startedAt) }, 'weights are loaded');
  return new NativeDecoder(config, native);
}

/** The same on the GPU. Throws NOT_SUPPORTED where there is none, or for a shape that its kernels do not take. */
export async function loadCudaModel(
  modelPath: string,
  cuda: CudaModelOptions,
  options: ModelConfigOptions & WeightChoice = {},
): Promise<Model> {
  resolveWeights(options, 'cuda');
  const config = await readModelConfig(modelPath, options);
  const tensors = await readCheckpoint(modelPath, config);
  const startedAt = performance.now();
  const maxPositions = Math.min(cuda.maxPositions, config.maxPositionEmbeddings);
  const native = await loadNative().loadCudaModel(config, tensors, { ...cuda, maxPositions });
  const { own } = loadNative().cudaMemory();
  log.info({ ...cuda, bytes: own, ms: Math.round(performance.now() - startedAt) }, 'weights are on the GPU');
  return new NativeDecoder(config, native);
}
