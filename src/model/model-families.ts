// The families of decoders that the forward pass can run, and what config.json leaves unsaid about each.

export interface ModelFamily {
  /** RMSNorm over head_dim on q and k. */
  readonly qkNorm: boolean;
  /** Biases on q, k and v: whatever config.json says, or as `attention_bias` says (then on o too), or never. */
  readonly attentionBias: 'always' | 'as_configured' | 'never';
  /** Whether `mlp_bias` may be true. */
  readonly mayHaveMlpBias: boolean;
  /** q, k, v in one tensor `qkv_proj`, and gate, up in one tensor `gate_up_proj`. */
  readonly fusedProjections: boolean;
  /** `sliding_window` counts as it stands, or only with `use_sliding_window`, or is no field of this family. */
  readonly slidingWindow: 'as_configured' | 'if_used' | 'never';
  /** Whether `no_rope_layers` may leave layers without rotation. */
  readonly mayLackRope: boolean;
  readonly architecture: string;
}

const llama: ModelFamily = {
  qkNorm: false,
  attentionBias: 'as_configured',
  mayHaveMlpBias: true,
  fusedProjections: false,
  slidingWindow: 'never',
  mayLackRope: false,
  architecture: 'LlamaForCausalLM',
};

/** By `model_type`. SmolLM and SmolLM2 are Llama models. */
export const modelFamilies = {
  llama,
  mistral: {
    ...llama,
    attentionBias: 'never',
    mayHaveMlpBias: false,
    slidingWindow: 'as_configured',
    architecture: 'MistralForCausalLM',
  },
  qwen2: {
    ...llama,
    attentionBias: 'always',
    mayHaveMlpBias: false,
    slidingWindow: 'if_used',
    architecture: 'Qwen2ForCausalLM',
  },
  qwen3: {
    ...llama,
    qkNorm: true,
    mayHaveMlpBias: false,
    slidingWindow: 'if_used',
    architecture: 'Qwen3ForCausalLM',
  },
  smollm3: {
    ...llama,
    slidingWindow: 'if_used',
    mayLackRope: true,
    architecture: 'SmolLM3ForCausalLM',
  },
  phi3: {
    ...llama,
    attentionBias: 'never',
    mayHaveMlpBias: false,
    fusedProjections: true,
    slidingWindow: 'as_configured',
    architecture: 'Phi3ForCausalLM',
  },
} as const satisfies Readonly<Record<string, ModelFamily>>;

export type ModelType = keyof typeof modelFamilies;

export function isModelType(name: string): name is ModelType {
  return Object.hasOwn(modelFamilies, name);
}
