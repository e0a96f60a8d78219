// config.json: the families that run, and every refusal by field.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readModelConfig } from '../../src/model/model-config.js';
import { errorOf, llamaConfig, withFolder } from './model-folders.js';

const read = (config: object) => withFolder({ 'config.json': config }, readModelConfig);

const llama3 = {
  rope_type: 'llama3',
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 8192,
};

test('a Llama config gives the sizes that the forward pass needs', async () => {
  const config = await read(llamaConfig);
  assert.is(config.headDim, 4);
  assert.is(config.numKvHeads, 1);
  assert.is(config.qkNorm, false);
  assert.is(config.attentionBias, false);
  assert.is(config.tieWordEmbeddings, false);
  assert.is(config.rmsNormEps, 1e-5);
  assert.is(config.maxPositionEmbeddings, 64);
  assert.equal(config.eosTokenIds, [2]);
  assert.equal([...config.invFreq], [1, Math.fround(0.01)]);
});

test('heads without num_key_value_heads all have their own keys', async () => {
  const { num_key_value_heads: _, ...config } = llamaConfig;
  assert.is((await read(config)).numKvHeads, 2);
});

test('head_dim does not have to be hidden_size / num_attention_heads', async () => {
  const config = await read({ ...llamaConfig, head_dim: 16 });
  assert.is(config.headDim, 16);
  assert.is(config.invFreq.length, 8);
});

test('Qwen2 has biases on q, k and v, Qwen3 norms on q and k', async () => {
  const qwen2 = await read({ ...llamaConfig, model_type: 'qwen2', tie_word_embeddings: true });
  assert.equal([qwen2.attentionBias, qwen2.qkNorm, qwen2.tieWordEmbeddings], [true, false, true]);
  const qwen3 = await read({ ...llamaConfig, model_type: 'qwen3', attention_bias: false });
  assert.equal([qwen3.attentionBias, qwen3.qkNorm], [false, true]);
});

test('a sliding window holds in every layer, unless it is switched off', async () => {
  const mistral = { ...llamaConfig, model_type: 'mistral', sliding_window: 32, num_hidden_layers: 2 };
  const slides = await read(mistral);
  assert.equal(slides.slidingWindows, [32, 32]);
  assert.is(slides.maxPositionEmbeddings, 64);
  assert.is((await read({ ...mistral, sliding_window: null })).slidingWindows, undefined);
  const qwen2 = { ...mistral, model_type: 'qwen2', use_sliding_window: false };
  assert.is((await read(qwen2)).slidingWindows, undefined);
  // A field of no meaning for a Llama.
  assert.is((await read({ ...mistral, model_type: 'llama' })).slidingWindows, undefined);
});

test('layers without a window of their own make none, and which ones have one is kept', async () => {
  const qwen = { ...llamaConfig, model_type: 'qwen2', num_hidden_layers: 4, sliding_window: 16 };
  assert.is((await read({ ...qwen, use_sliding_window: true, max_window_layers: 4 })).window, null);
  const upper = await read({ ...qwen, use_sliding_window: true, max_window_layers: 3 });
  assert.equal(upper.window, { size: 16, layers: [3] });
  assert.equal(upper.slidingWindows, [0, 0, 0, 16]);
  const layerTypes = ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'];
  assert.equal((await read({ ...qwen, layer_types: layerTypes })).window, { size: 16, layers: [0, 2] });
  // Phi-3's window of the 128k variants is as long as its context.
  assert.is((await read({ ...llamaConfig, model_type: 'phi3', sliding_window: 64 })).window, null);
});

test('Llama and SmolLM3 may have biases on every projection, Qwen3 around attention', async () => {
  const biases = async (config: object) => {
    const { attentionBias, outputBias, mlpBias } = await read({ ...llamaConfig, ...config });
    return [attentionBias, outputBias, mlpBias];
  };
  assert.equal(await biases({ attention_bias: true, mlp_bias: true }), [true, true, true]);
  assert.equal(await biases({ model_type: 'qwen3', attention_bias: true }), [true, true, false]);
  assert.equal(await biases({ model_type: 'qwen2' }), [true, false, false]);
  assert.equal(await biases({ model_type: 'phi3' }), [false, false, false]);
});

test('SmolLM3 rotates all layers but every fourth, or as no_rope_layers says', async () => {
  const smollm3 = { ...llamaConfig, model_type: 'smollm3', num_hidden_layers: 8 };
  assert.equal((await read(smollm3)).noRopeLayers, [3, 7]);
  assert.equal((await read({ ...smollm3, no_rope_layer_interval: 3 })).noRopeLayers, [2, 5]);
  const marks = [1, 1, 0, 1, 1, 1, 1, 0];
  assert.equal((await read({ ...smollm3, no_rope_layers: marks })).noRopeLayers, [2, 7]);
  assert.equal((await read(llamaConfig)).noRopeLayers, []);
});

test('a part of each head is rotated, in either spelling', async () => {
  for (const change of [
    { partial_rotary_factor: 0.5 },
    { rope_parameters: { rope_theta: 10_000, partial_rotary_factor: 0.5 } },
  ]) {
    const config = await read({ ...llamaConfig, model_type: 'phi3', head_dim: 8, ...change });
    assert.equal([...config.invFreq], [1, Math.fround(0.01)]);
  }
});

test('several end tokens are all kept', async () => {
  assert.equal((await read({ ...llamaConfig, eos_token_id: [2, 5] })).eosTokenIds, [2, 5]);
  assert.equal((await read({ ...llamaConfig, eos_token_id: null })).eosTokenIds, []);
});

test('linear rope scaling divides every frequency', async () => {
  const config = await read({ ...llamaConfig, rope_scaling: { type: 'linear', factor: 4 } });
  assert.equal([...config.invFreq], [0.25, Math.fround(0.0025)]);
});

test('llama3 rope scaling gives the numbers of an independent calculation', async () => {
  const config = await read({ ...llamaConfig, head_dim: 128, rope_theta: 500_000, rope_scaling: llama3 });
  // Computed with 40 digits by interpolating in rotations over the original context (Llama 3.1's values).
  const expected: Readonly<Record<number, number>> = {
    0: 1,
    1: 0.814617233857,
    15: 0.0461640502655,
    28: 0.00321144599475,
    29: 0.0021665707635,
    30: 0.00137189356776,
    31: 0.00085675141292,
    32: 0.000524846160993,
    34: 0.000178507812768,
    36: 7.78465527393e-5,
    40: 3.42810219595e-5,
    63: 3.06892598891e-7,
  };
  for (const [i, value] of Object.entries(expected)) {
    const relativeError = Math.abs(config.invFreq[Number(i)]! / value - 1);
    assert.ok(relativeError < 1e-7, `frequency ${i} is off by ${relativeError}`);
  }
});

test('rope_parameters of newer configs mean the same as rope_theta and rope_scaling', async () => {
  const old = await read({ ...llamaConfig, rope_theta: 500_000, rope_scaling: llama3 });
  const recent = await read({ ...llamaConfig, rope_parameters: { ...llama3, rope_theta: 500_000 } });
  assert.equal(recent.rope, old.rope);
});

const refusals: readonly (readonly [change: object, message: RegExp])[] = [
  [{ model_type: 'gemma2' }, /field 'model_type': 'gemma2' is not supported, only llama, mistral/],
  [{ model_type: undefined }, /field 'model_type'/],
  [{ hidden_size: '8' }, /field 'hidden_size': .*expected number/],
  [{ hidden_size: -8 }, /field 'hidden_size'/],
  [{ vocab_size: 1e12 }, /field 'vocab_size'/],
  [{ num_hidden_layers: 1e9 }, /field 'num_hidden_layers'/],
  [{ num_hidden_layers: undefined }, /field 'num_hidden_layers'/],
  [{ intermediate_size: 1.5 }, /field 'intermediate_size'/],
  [{ num_key_value_heads: 3, num_attention_heads: 4 }, /field 'num_key_value_heads': 3 does not divide/],
  [{ num_attention_heads: 3, num_key_value_heads: 3 }, /field 'head_dim': is absent/],
  [{ head_dim: 5 }, /field 'head_dim': 5 is odd/],
  [{ hidden_act: 'gelu' }, /field 'hidden_act': 'gelu' is not supported, only 'silu'/],
  [{ model_type: 'phi3', attention_bias: true }, /field 'attention_bias': true is not supported for phi3/],
  [{ model_type: 'qwen3', mlp_bias: true }, /field 'mlp_bias': true is not supported for qwen3/],
  [{ partial_rotary_factor: 0.3 }, /field 'partial_rotary_factor': 0.3 of head_dim 4 are 1 dimensions/],
  [{ partial_rotary_factor: 2 }, /field 'partial_rotary_factor'/],
  [{ rope_parameters: { partial_rotary_factor: 0 } }, /field 'rope_parameters.partial_rotary_factor'/],
  [{ layer_types: ['full_attention', 'sliding_attention'] }, /field 'layer_types': 'sliding_attention'/],
  [{ quantization_config: { quant_method: 'gptq' } }, /field 'quantization_config'/],
  [{ rope_scaling: { type: 'mrope' } }, /field 'rope_scaling': type 'mrope' is not supported, only default/],
  [{ rope_scaling: { type: 'constructor' } }, /type 'constructor' is not supported/],
  [{ rope_scaling: { rope_type: 'yarn' } }, /field 'rope_scaling.factor': is required for rope type 'yarn'/],
  [
    { rope_scaling: { type: 'yarn', factor: 4, beta_fast: 1 } },
    /field 'rope_scaling.beta_fast': 1 is not above/,
  ],
  [{ rope_scaling: { type: 'dynamic' } }, /field 'rope_scaling.factor': is required for rope type 'dynamic'/],
  [{ rope_scaling: { type: 'dynamic', factor: 0.5 } }, /field 'rope_scaling.factor'/],
  [
    { rope_scaling: { type: 'longrope', long_factor: [1, 1] } },
    /field 'rope_scaling.short_factor': is required/,
  ],
  [
    { rope_scaling: { type: 'su', short_factor: [1, 1], long_factor: [1] } },
    /field 'rope_scaling.long_factor': has 1 numbers instead of 2/,
  ],
  [
    { rope_scaling: { type: 'longrope', short_factor: [1, 1], long_factor: [1, 1] } },
    /field 'original_max_position_embeddings': is required/,
  ],
  [{ no_rope_layers: [0] }, /field 'no_rope_layers': is not supported for llama/],
  [{ model_type: 'smollm3', no_rope_layers: [0, 1] }, /field 'no_rope_layers': has 2 entries for 1 layers/],
  [{ model_type: 'phi3', layer_types: ['sliding_attention'] }, /field 'sliding_window': is missing/],
  [{ model_type: 'qwen3', layer_types: [] }, /field 'layer_types': has 0 entries for 1 layers/],
  [{ model_type: 'qwen3', layer_types: ['chunked_attention'] }, /field 'layer_types': 'chunked_attention'/],
  [{ rope_scaling: { type: 'linear' } }, /field 'rope_scaling.factor': is required/],
  [{ rope_scaling: { ...llama3, low_freq_factor: undefined } }, /field 'rope_scaling.low_freq_factor'/],
  [{ rope_scaling: { ...llama3, high_freq_factor: 1 } }, /field 'rope_scaling.high_freq_factor'/],
  [{ rope_scaling: 'linear' }, /field 'rope_scaling'/],
  [{ max_position_embeddings: 0 }, /field 'max_position_embeddings'/],
  [{ rms_norm_eps: 'small' }, /field 'rms_norm_eps'/],
  [{ eos_token_id: -1 }, /field 'eos_token_id/],
];

for (const [change, message] of refusals) {
  test(`a config with ${JSON.stringify(change)} is refused by field`, async () => {
    const error = await errorOf(() => read({ ...llamaConfig, ...change }));
    assert.is(error.code, 'BAD_FILE');
    assert.match(error.message, message);
    assert.match(error.message, 'config.json');
  });
}

test('a folder without config.json is no model folder, and a path with nothing is not found', async () => {
  const noConfig = await withFolder({ 'model.bin': 'x' }, (folder) => errorOf(() => readModelConfig(folder)));
  assert.is(noConfig.code, 'BAD_FILE');
  assert.match(noConfig.message, 'is not a model folder');
  assert.is((await errorOf(() => readModelConfig('/nowhere/at/all'))).code, 'NOT_FOUND');
});

test('a config that is not JSON, or no object, is refused', async () => {
  for (const text of ['{"model_type":', '[]', 'null', '"llama"']) {
    const error = await withFolder({ 'config.json': text }, (folder) =>
      errorOf(() => readModelConfig(folder)),
    );
    assert.is(error.code, 'BAD_FILE', text);
  }
});

test.run();
