// The Model interface: token ids and block tables in, logits out.
import type { Draw } from '../native/draws.js';
import type { KvPool } from '../native/kv-pool.js';
import type { ForwardInput, SampledForward } from '../native/model.js';

export interface Model {
  readonly vocabSize: number;
  /** Longest sequence that the rotary embedding was made for. */
  readonly maxPositionEmbeddings: number;
  /** Shape of one KV pool block for this model. */
  readonly kvShape: { readonly numLayers: number; readonly numKvHeads: number; readonly headDim: number };
  /** (num_logits_rows, vocab_size) logits; writes K and V of every token into the pool. One call at a time. */
  forward(pool: KvPool, input: ForwardInput): Promise<Float32Array>;
  /**
   * Present where tokens can be drawn without their logits leaving the device: one entry of `draws` a row of logits, null
   * where the row itself is wanted. What the model folder suppresses is never drawn.
   */
  readonly forwardAndSample?: (
    pool: KvPool,
    input: ForwardInput,
    draws: readonly (Draw | null)[],
  ) => Promise<SampledForward>;
  close(): void;
}
