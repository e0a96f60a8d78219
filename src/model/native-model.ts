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
  readonly forwardAndSample?: NativeModel['forwardAndSample'];
  readonly #native: NativeModel;

  constructor(config: ModelConfig, native: NativeModel, options: { readonly samples: boolean }) {
    if (options.samples) this.forwardAndSample = (...step) => native.forwardAndSample(...step);
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

/** What the choice comes to on this machine. Throws INVALID_ARGUMENT for what the backend does not keep weights as. */
export function resolveWeights(choice: WeightChoice, backend: 'cpu' | 'cuda'): NativeWeights | CudaWeights {
  return backend === 'cuda' ? cudaWeights(choice) : cpuWeights(choice);
}

function cpuWeights({ dtype = 'auto', quantization = 'none' }: WeightChoice): NativeWeights {
  if (dtype === 'float16') throw unfit('cpu', 'dtype', 'auto, float32 or bfloat16', dtype);
  return {
    dtype: dtype === 'auto' ? loadNative().defaultDtype : dtype,
    quantization: quantization === 'none' ? null : quantization,
  };
}

/** What weights and activations are on a GPU. */
export interface CudaWeights {
  readonly dtype: CudaModelOptions['dtype'];
  readonly quantization: null;
}

export function cudaWeights({ dtype = 'auto', quantization = 'none' }: WeightChoice): CudaWeights {
  if (dtype === 'float32') throw unfit('cuda', 'dtype', 'auto, bfloat16 or float16', dtype);
  if (quantization !== 'none') throw unfit('cuda', 'quantization', 'none', quantization);
  return { dtype: dtype === 'auto' ? 'bfloat16' : dtype, quantization: null };
}

function unfit(backend: string, param: string, expected: string, received: string): VllmPdError {
  const message = `Expected --${param} ${expected} with --backend ${backend} but received ${received}.`;
  return new VllmPdError('INVALID_ARGUMENT', message, { param });
}

/** Loads config.json and the weights, and says how much of them is packed where they have to be. Throws NOT_FOUND, BAD_FILE (config before weights) or NATIVE_UNAVAILABLE. */
export async function loadModel(
  modelPath: string,
  numThreads: number,
  options: ModelConfigOptions & WeightChoice = {},
  onPacked?: (fraction: number) => void,
): Promise<Model> {
  const config = await readModelConfig(modelPath, options);
  const tensors = await readCheckpoint(modelPath, config);
  const weights = cpuWeights(options);
  const cache = await packedCache(modelPath, tensors, weights);
  const startedAt = performance.now();
  const kept = { ...weights, ...(cache && { cache }) };
  const native = await loadNative().loadModel(config, tensors, numThreads, kept, onPacked);
  const { weightSource } = native;
  log.info({ ...weights, weightSource, ms: Math.round(performance.now() - startedAt) }, 'weights are loaded');
  return new NativeDecoder(config, native, { samples: false });
}

/** The same on the GPU. Throws NOT_SUPPORTED where there is none, or for a shape that its kernels do not take. */
export async function loadCudaModel(
  modelPath: string,
  cuda: Omit<CudaModelOptions, 'dtype'>,
  options: ModelConfigOptions & WeightChoice = {},
): Promise<Model> {
  const { dtype } = cudaWeights(options);
  const config = await readModelConfig(modelPath, options);
  const tensors = await readCheckpoint(modelPath, config);
  const startedAt = performance.now();
  const maxPositions = Math.min(cuda.maxPositions, config.maxPositionEmbeddings);
  const native = await loadNative().loadCudaModel(config, tensors, { ...cuda, dtype, maxPositions });
  const { own } = loadNative().cudaMemory();
  const { suppressTokenIds: _, ...said } = cuda;
  log.info(
    { ...said, dtype, bytes: own, ms: Math.round(performance.now() - startedAt) },
    'weights are on the GPU',
  );
  return new NativeDecoder(config, native, { samples: true });
}
