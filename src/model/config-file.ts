// The fields of config.json that decide how a decoder is computed, as far as their own values go.
import { z } from 'zod';

// Upper bounds keep a corrupt file from asking for absurd amounts of memory.
const size = (max: number) => z.int().min(1).max(max);
const maxPositions = 1 << 30;
const tokenId = z.int().min(0);
const stretch = z.array(z.number().positive());

const ropeSchema = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: z.number().positive().optional(),
  factor: z.number().min(1).nullish(),
  low_freq_factor: z.number().positive().optional(),
  high_freq_factor: z.number().positive().optional(),
  original_max_position_embeddings: size(maxPositions).nullish(),
  partial_rotary_factor: z.number().gt(0).max(1).optional(),
  beta_fast: z.number().positive().nullish(),
  beta_slow: z.number().positive().nullish(),
  truncate: z.boolean().nullish(),
  attention_factor: z.number().positive().nullish(),
  attn_factor: z.number().positive().nullish(),
  mscale: z.number().nullish(),
  mscale_all_dim: z.number().nullish(),
  short_factor: stretch.optional(),
  long_factor: stretch.optional(),
  short_mscale: z.number().positive().nullish(),
  long_mscale: z.number().positive().nullish(),
});

export const configSchema = z.looseObject({
  model_type: z.string(),
  vocab_size: size(1 << 24),
  hidden_size: size(1 << 20),
  intermediate_size: size(1 << 22),
  num_hidden_layers: size(1024),
  num_attention_heads: size(4096),
  num_key_value_heads: size(4096).nullish(),
  head_dim: size(4096).nullish(),
  rms_norm_eps: z.number().positive().max(1).default(1e-6),
  hidden_act: z.string().default('silu'),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(false),
  max_position_embeddings: size(maxPositions),
  original_max_position_embeddings: size(maxPositions).nullish(),
  rope_theta: z.number().positive().optional(),
  rope_scaling: ropeSchema.nullish(),
  /** What transformers 5 writes instead of `rope_theta` and `rope_scaling`. */
  rope_parameters: ropeSchema.nullish(),
  partial_rotary_factor: z.number().gt(0).max(1).optional(),
  no_rope_layers: z.array(z.union([z.boolean(), z.literal([0, 1])])).nullish(),
  no_rope_layer_interval: size(1024).nullish(),
  use_sliding_window: z.boolean().nullish(),
  sliding_window: size(maxPositions).nullish(),
  max_window_layers: z.int().min(0).nullish(),
  layer_types: z.array(z.string()).nullish(),
  quantization_config: z.unknown().optional(),
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
});

export type ConfigFile = z.infer<typeof configSchema>;

/** What a field of the file makes impossible; the sentence names the field. */
export class Refusal extends Error {
  constructor(field: string, why: string) {
    super(`field '${field}': ${why}`);
  }
}
