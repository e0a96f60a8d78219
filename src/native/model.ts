// A model whose weights the native module holds.
import { VllmPdError } from '../errors.js';
import type { ForwardInput, KvPool, NativeModel, NativeModelConfig, WeightSource } from '../native.js';
import { type Addon, cross, crossAsync, type ModelHandle } from './addon.js';
import { NativeKvPool } from './kv-pool.js';

export class LoadedNativeModel implements NativeModel {
  readonly config: NativeModelConfig;
  readonly weightSource: WeightSource;
  readonly #addon: Addon;
  readonly #handle: ModelHandle;
  #running = false;

  constructor(addon: Addon, handle: ModelHandle, config: NativeModelConfig) {
    this.#addon = addon;
    this.#handle = handle;
    this.config = config;
    this.weightSource = cross(() => addon.weightSource(handle));
  }

  async forward(pool: KvPool, input: ForwardInput): Promise<Float32Array> {
    if (this.#running) {
      throw new VllmPdError(
        'INVALID_ARGUMENT',
        'Expected one forward pass at a time but another is under way.',
      );
    }
    const handle = NativeKvPool.handleOf(pool);
    const { tokenIds, positions, cuSeqlensQ, blockTables, cuBlocks, logitsIndices } = input;
    const arrays = { tokenIds, positions, cuSeqlensQ, blockTables, cuBlocks, logitsIndices };
    for (const [name, array] of Object.entries(arrays)) {
      if (array instanceof Int32Array) continue;
      throw new VllmPdError(
        'INVALID_ARGUMENT',
        `Expected an Int32Array for ${name} but received ${typeof array}.`,
      );
    }
    this.#running = true;
    try {
      return await crossAsync(() =>
        this.#addon.forward(
          this.#handle,
          handle,
          tokenIds,
          positions,
          cuSeqlensQ,
          blockTables,
          cuBlocks,
          logitsIndices,
        ),
      );
    } finally {
      this.#running = false;
    }
  }

  close(): void {
    this.#addon.closeModel(this.#handle);
  }
}
