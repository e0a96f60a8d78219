// The Model interface on the native module.
import type { DtypeChoice, Quantization } from '../config.js';
import { createLogger } from '../log.js';
import {
  type ForwardInput,
  type KvPool,
  loadNative,
  type NativeModel,
  type NativeWeights,
} from '../native.js';
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

/** What weights are kept as on backend `cpu`; by default `auto` and `none`. */
export interface WeightChoice {
  readonly dtype?: DtypeChoice;
  readonly quantization?: Quantization;
}

/** What the choice comes to on this machine. */
export function resolveWeights({ dtype = 'auto', quantization = 'none' }: WeightChoice): NativeWeights {
  return {
    dtype: dtype === 'auto' ? loadNative().defaultDtype : dtype,
    quantization: quantization === 'none' ? null : quantization,
  };
}

/** Loads config.json and the weights. Throws NOT_FOUND, BAD_FILE (config before weights) or NATIVE_UNAVAILABLE. */
export async function loadModel(
  modelPath: string,
  numThreads: number,
  options: ModelConfigOptions & WeightChoice = {},
): Promise<Model> {
  const config = await readModelConfig(modelPath, options);
  const tensors = await readCheckpoint(modelPath, config);
  const weights = resolveWeights(options);
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
