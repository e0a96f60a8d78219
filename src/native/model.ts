// A model whose weights the native module holds.
import { VllmPdError } from '../errors.js';
import { type Addon, cross, crossAsync, type ModelHandle, type PoolHandle } from './addon.js';
import { type Draw, packDraws } from './draws.js';
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

/** What a step with draws comes to. */
export interface SampledForward {
  /** (num_logits_rows) Null or absent where there was no draw, -1 where no logit is finite. */
  readonly tokenIds: readonly (number | null)[];
  /** (rows without a draw, vocab_size) */
  readonly logits: Float32Array;
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
  /**
   * The same, with tokens drawn where the logits are; `draws` has one entry a row of logits. Rejects with NOT_SUPPORTED
   * unless the model is on a GPU.
   */
  forwardAndSample(
    pool: KvPool,
    input: ForwardInput,
    draws: readonly (Draw | null)[],
  ): Promise<SampledForward>;
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

  forward(pool: KvPool, input: ForwardInput): Promise<Float32Array> {
    return this.#alone(pool, input, (...step) => this.#addon.forward(this.#handle, ...step));
  }

  forwardAndSample(
    pool: KvPool,
    input: ForwardInput,
    draws: readonly (Draw | null)[],
  ): Promise<SampledForward> {
    return this.#alone(pool, input, async (...step) => {
      const { reals, ints, logitsRows } = packDraws(draws);
      const sampled = await this.#addon.forwardAndSample(this.#handle, ...step, reals, ints, logitsRows);
      const drawn = sampled.tokenIds[Symbol.iterator]();
      return {
        tokenIds: draws.map((draw) => (draw === null ? null : drawn.next().value!)),
        logits: sampled.logits,
      };
    });
  }

  async #alone<Result>(
    pool: KvPool,
    input: ForwardInput,
    run: (...step: StepArguments) => Promise<Result>,
  ): Promise<Result> {
    if (this.#running) {
      throw new VllmPdError(
        'INVALID_ARGUMENT',
        'Expected one forward pass at a time but another is under way.',
      );
    }
    const step = stepArguments(pool, input);
    this.#running = true;
    try {
      return await crossAsync(() => run(...step));
    } finally {
      this.#running = false;
    }
  }

  close(): void {
    this.#addon.closeModel(this.#handle);
  }
}

/** What the addon takes behind the model. */
type StepArguments = readonly [
  pool: PoolHandle,
  tokenIds: Int32Array,
  positions: Int32Array,
  cuSeqlensQ: Int32Array,
  blockTables: Int32Array,
  cuBlocks: Int32Array,
  logitsIndices: Int32Array,
];

function stepArguments(pool: KvPool, input: ForwardInput): StepArguments {
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
  return [handle, tokenIds, positions, cuSeqlensQ, blockTables, cuBlocks, logitsIndices];
}
