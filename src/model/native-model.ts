// The Model interface on the native module.
import { type ForwardInput, type KvPool, loadNative, type NativeModel } from '../native.js';
import { readCheckpoint } from './checkpoint.js';
import type { Model } from './model.js';
import { type ModelConfig, type ModelConfigOptions, readModelConfig } from './model-config.js';

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

/** Loads config.json and the weights. Throws NOT_FOUND, BAD_FILE (config before weights) or NATIVE_UNAVAILABLE. */
export async function loadModel(
  modelPath: string,
  numThreads: number,
  options: ModelConfigOptions = {},
): Promise<Model> {
  const config = await readModelConfig(modelPath, options);
  const tensors = await readCheckpoint(modelPath, config);
  const native = await loadNative().loadModel(config, tensors, numThreads);
  return new NativeDecoder(config, native);
}
