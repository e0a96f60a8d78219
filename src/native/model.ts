// A model whose weights the native module holds.
import { VllmPdError } from '../errors.js';
import { type Addon, cross, crossAsync, type ModelHandle } from './addon.js';
import { type KvPool, NativeKvPool } from './kv-pool.js';
import type { NativeModelConfig, WeightSource } from './model-config.js';

/** One step's tokens, all requests flattened, no padding. */
export interface ForwardInput {
  /** (num_tokens) */
  readonly tokenIds: Int32Array;
  /** (num_tokens) */
  readonly positions: Int32Array;
  /** (num_requests + 1) prefix sums of tokens per request. */
  readonly cuSeqlensQ: Int32Array;
  /** Block tables of all requests, one after the other… */
  readonly blockTables: Int32Array;
  /** …and where each begins: (num_requests + 1). */
  readonly cuBlocks: Int32Array;
  /** (num_logits_rows) indices into tokenIds whose logits are wanted. */
  readonly logitsIndices: Int32Array;
  /**
   * (num_requests) Something that stands for each request's sequence, the same object step after step while its tokens
   * only grow. For backends that keep KV beside the pool from one step to the next; the native module looks past it.
   */
  readonly sequences?: readonly object[];
}

export interface NativeModel {
  readonly config: NativeModelConfig;
  readonly weightSource: WeightSource;
  /**
   * Runs the whole forward pass on native threads: writes K and V of every token into the pool at
   * `block_table[position / block_size]`, slot `position % block_size`, and resolves to (num_logits_rows, vocab_size)
   * logits. A token's logits are bit-equal whatever else is in the batch and however its prompt was chunked.
   * One call at a time.
   */
  forward(pool: KvPool, input: ForwardInput): Promise<Float32Array>;
  /** Frees the weights and ends the threads. Idempotent; must not be called during a forward pass. */
  close(): void;
}

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
