// Which tensors a decoder's checkpoint holds, by Hugging Face name and shape.
import type { NativeModelConfig } from '../native/model-config.js';

export interface TensorSpec {
  readonly name: string;
  /** Matrices are (out_features, in_features). */
  readonly shape: readonly number[];
}

export function expectedTensors(config: NativeModelConfig): TensorSpec[] {
  const { vocabSize, hiddenSize, numLayers } = config;
  return [
    { name: 'model.embed_tokens.weight', shape: [vocabSize, hiddenSize] },
    ...Array.from({ length: numLayers }, (_, layer) => layerTensors(config, layer)).flat(),
    { name: 'model.norm.weight', shape: [hiddenSize] },
    ...(config.tieWordEmbeddings ? [] : [{ name: 'lm_head.weight', shape: [vocabSize, hiddenSize] }]),
  ];
}

function layerTensors(config: NativeModelConfig, layer: number): TensorSpec[] {
  const { hiddenSize, intermediateSize, headDim, qkNorm } = config;
  const qSize = config.numHeads * headDim;
  const kvSize = config.numKvHeads * headDim;
  const bias = (part: string, size: number, isThere = config.attentionBias): TensorSpec[] =>
    isThere ? [{ name: `${part}.bias`, shape: [size] }] : [];
  const mlpBias = (part: string, size: number) => bias(`mlp.${part}`, size, config.mlpBias ?? false);
  const norm = (part: string): TensorSpec[] =>
    qkNorm ? [{ name: `self_attn.${part}.weight`, shape: [headDim] }] : [];
  const tensors: TensorSpec[] = [
    { name: 'input_layernorm.weight', shape: [hiddenSize] },
    { name: 'self_attn.q_proj.weight', shape: [qSize, hiddenSize] },
    ...bias('self_attn.q_proj', qSize),
    { name: 'self_attn.k_proj.weight', shape: [kvSize, hiddenSize] },
    ...bias('self_attn.k_proj', kvSize),
    { name: 'self_attn.v_proj.weight', shape: [kvSize, hiddenSize] },
    ...bias('self_attn.v_proj', kvSize),
    { name: 'self_attn.o_proj.weight', shape: [hiddenSize, qSize] },
    ...bias('self_attn.o_proj', hiddenSize, config.outputBias ?? false),
    ...norm('q_norm'),
    ...norm('k_norm'),
    { name: 'post_attention_layernorm.weight', shape: [hiddenSize] },
    { name: 'mlp.gate_proj.weight', shape: [intermediateSize, hiddenSize] },
    ...mlpBias('gate_proj', intermediateSize),
    { name: 'mlp.up_proj.weight', shape: [intermediateSize, hiddenSize] },
    ...mlpBias('up_proj', intermediateSize),
    { name: 'mlp.down_proj.weight', shape: [hiddenSize, intermediateSize] },
    ...mlpBias('down_proj', hiddenSize),
  ];
  return tensors.map(({ name, shape }) => ({ name: `model.layers.${layer}.${name}`, shape }));
}

export function numElements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}
