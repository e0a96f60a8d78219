// A Llama/Qwen-style decoder as an ONNX graph, with the inputs and outputs that published exports have.
import type { NativeModelConfig } from '../native/model-config.js';
import { OnnxGraph } from './onnx-graph.js';

/** Versions of the operators used: ONNX's own, and ONNX Runtime's for GroupQueryAttention. */
const opsets = { '': 23, 'com.microsoft': 1 };
const contrib = 'com.microsoft';

const maxInt64 = 2n ** 63n - 1n;

/** What every layer's nodes refer to. */
interface Shared {
  /** (batch_size, sequence_length, rotary_dim / 2) */
  readonly cos: string;
  readonly sin: string;
  /** (batch_size) int32, last position of each sequence */
  readonly lastPositions: string;
  /** () int32 */
  readonly totalLength: string;
  /** Shapes to split (…, num_heads · head_dim) into heads and back. */
  readonly headShape: string;
  readonly flatShape: string;
}

/** Weights by Hugging Face name. Matrices come as (in_features, out_features), the embedding as it is. */
export interface DecoderWeights {
  readonly vector: (name: string) => Float32Array;
}

/** One layer's attention: names of what it reads and of what it must give. */
export interface AttentionNode {
  readonly layer: number;
  /** (batch_size, sequence_length, num_heads · head_dim), rotated */
  readonly q: string;
  /** (batch_size, sequence_length, num_kv_heads · head_dim), k rotated */
  readonly k: string;
  readonly v: string;
  /** Key and value, (batch_size, num_kv_heads, length, head_dim) */
  readonly past: readonly string[];
  readonly present: readonly string[];
}

/** What exports differ in; where a part is absent, the graph has one MatMul a matrix and GroupQueryAttention. */
export interface DecoderForm {
  /** (…, in_features) → (…, out_features), by the matrix of that Hugging Face name. */
  readonly product?: (graph: OnnxGraph, name: string, x: string) => string;
  /** Of the shape of `q`. */
  readonly attention?: (graph: OnnxGraph, node: AttentionNode) => string;
}

/**
 * The graph. Vectors lie inside it, matrices are declared as external tensors that the caller writes: the embedding as
 * the checkpoint has it, every other matrix transposed.
 */
export function buildDecoder(
  config: NativeModelConfig,
  weights: DecoderWeights,
  externalFile: string,
  form: DecoderForm = {},
): OnnxGraph {
  const { vocabSize, hiddenSize, numLayers } = config;
  const graph = new OnnxGraph(externalFile);
  const inputIds = graph.input('input_ids', 'int64', ['batch_size', 'sequence_length']);
  const shared = sharedNodes(graph, config);
  const embedding = graph.external('model.embed_tokens.weight', [vocabSize, hiddenSize]);
  let hidden = graph.node('Gather', [embedding, inputIds]);
  const layers = new DecoderLayers(graph, config, weights, shared, form);
  for (let layer = 0; layer < numLayers; layer++) hidden = layers.add(layer, hidden);
  logits(graph, config, weights, hidden, form);
  return graph;
}

export function encodeDecoder(graph: OnnxGraph): Uint8Array {
  return graph.encode(opsets);
}

/** Name under which the output projection is declared; with tied embeddings it is a transposed copy of these. */
export const outputProjection = 'lm_head.weight';

function sharedNodes(graph: OnnxGraph, config: NativeModelConfig): Shared {
  const { invFreq, ropeAttentionScaling, headDim } = config;
  const mask = graph.input('attention_mask', 'int64', ['batch_size', 'total_sequence_length']);
  const positions = graph.input('position_ids', 'int64', ['batch_size', 'sequence_length']);
  const one = graph.constant('one', BigInt64Array.of(1n), [1]);
  const minusOne = graph.constant('minus_one', BigInt64Array.of(-1n), [1]);
  const toInt32 = (value: string) => graph.node('Cast', [value], { attributes: { to: { dtype: 'int32' } } });
  const lengths = graph.node('ReduceSum', [mask, one], { attributes: { keepdims: 0 } });
  const shape = graph.node('Shape', [mask], { attributes: { start: 1 } });

  // As the native module: the angle is rounded to float32 before its cosine is taken.
  const float32 = graph.node('Cast', [positions], { attributes: { to: { dtype: 'float32' } } });
  const column = graph.node('Unsqueeze', [float32, minusOne]);
  const angles = graph.node('Mul', [column, graph.constant('inv_freq', invFreq, [invFreq.length])]);
  const scale = graph.constant('rope_scale', Float32Array.of(ropeAttentionScaling), []);
  const scaled = (value: string) => (ropeAttentionScaling === 1 ? value : graph.node('Mul', [value, scale]));
  return {
    cos: scaled(graph.node('Cos', [angles])),
    sin: scaled(graph.node('Sin', [angles])),
    lastPositions: toInt32(graph.node('Sub', [lengths, one])),
    totalLength: toInt32(graph.node('Squeeze', [shape])),
    headShape: graph.constant('head_shape', BigInt64Array.of(0n, 0n, -1n, BigInt(headDim)), [4]),
    flatShape: graph.constant('flat_shape', BigInt64Array.of(0n, 0n, -1n), [3]),
  };
}

function rmsNorm(graph: OnnxGraph, x: string, name: string, gain: Float32Array, epsilon: number): string {
  const attributes = { axis: -1, epsilon: { float: epsilon } };
  return graph.node('RMSNormalization', [x, graph.constant(name, gain, [gain.length])], { attributes });
}

class DecoderLayers {
  readonly #graph: OnnxGraph;
  readonly #config: NativeModelConfig;
  readonly #weights: DecoderWeights;
  readonly #shared: Shared;
  readonly #form: DecoderForm;

  constructor(
    graph: OnnxGraph,
    config: NativeModelConfig,
    weights: DecoderWeights,
    shared: Shared,
    form: DecoderForm,
  ) {
    this.#graph = graph;
    this.#config = config;
    this.#weights = weights;
    this.#shared = shared;
    this.#form = form;
  }

  /** (batch_size, sequence_length, hidden_size) in and out. */
  add(layer: number, hidden: string): string {
    const prefix = `model.layers.${layer}.`;
    const normed = this.#norm(hidden, `${prefix}input_layernorm.weight`);
    const attended = this.#graph.node('Add', [hidden, this.#attention(layer, prefix, normed)]);
    const mlpInput = this.#norm(attended, `${prefix}post_attention_layernorm.weight`);
    return this.#graph.node('Add', [attended, this.#mlp(prefix, mlpInput)]);
  }

  #attention(layer: number, prefix: string, x: string): string {
    const { numHeads, numKvHeads, headDim, hiddenSize } = this.#config;
    const [qSize, kvSize] = [numHeads * headDim, numKvHeads * headDim];
    const parts = ['key', 'value'];
    const node: AttentionNode = {
      layer,
      q: this.#rotated(layer, `${prefix}self_attn.q`, x, numHeads),
      k: this.#rotated(layer, `${prefix}self_attn.k`, x, numKvHeads),
      v: this.#projected(`${prefix}self_attn.v`, x, kvSize),
      past: parts.map((part) =>
        this.#graph.input(
          `past_key_values.${layer}.${part}`,
          'float32',
          this.#kvShape('past_sequence_length'),
        ),
      ),
      present: parts.map((part) => `present.${layer}.${part}`),
    };
    for (const name of node.present) {
      this.#graph.output(name, 'float32', this.#kvShape('total_sequence_length'));
    }
    const attended = this.#form.attention?.(this.#graph, node) ?? this.#groupQueryAttention(node);
    const hasBias = this.#config.outputBias ?? false;
    return this.#linear(`${prefix}self_attn.o_proj`, attended, qSize, hiddenSize, hasBias);
  }

  #groupQueryAttention({ layer, q, k, v, past, present }: AttentionNode): string {
    const { numHeads, numKvHeads, headDim, slidingWindows } = this.#config;
    const { lastPositions, totalLength } = this.#shared;
    const window = slidingWindows?.[layer] ?? 0;
    return this.#graph.node('GroupQueryAttention', [q, k, v, ...past, lastPositions, totalLength], {
      domain: contrib,
      attributes: {
        num_heads: numHeads,
        kv_num_heads: numKvHeads,
        scale: { float: 1 / Math.sqrt(headDim) },
        ...(window > 0 && { local_window_size: window }),
      },
      outputs: [`model.layers.${layer}.attended`, ...present],
    });
  }

  #kvShape(length: string): (number | string)[] {
    return ['batch_size', this.#config.numKvHeads, length, this.#config.headDim];
  }

  /** (batch_size, sequence_length, numHeads · head_dim): projected, normed and rotated where the model does. */
  #rotated(layer: number, name: string, x: string, numHeads: number): string {
    const { headDim, qkNorm, invFreq, noRopeLayers = [] } = this.#config;
    const { cos, sin, headShape, flatShape } = this.#shared;
    let out = this.#projected(name, x, numHeads * headDim);
    if (qkNorm) {
      const heads = this.#graph.node('Reshape', [out, headShape]);
      out = this.#graph.node('Reshape', [this.#norm(heads, `${name}_norm.weight`), flatShape]);
    }
    if (noRopeLayers.includes(layer)) return out;
    const rotaryDim = 2 * invFreq.length;
    return this.#graph.node('RotaryEmbedding', [out, cos, sin], {
      attributes: { num_heads: numHeads, ...(rotaryDim < headDim && { rotary_embedding_dim: rotaryDim }) },
    });
  }

  #projected(name: string, x: string, size: number): string {
    const { hiddenSize, attentionBias } = this.#config;
    return this.#linear(`${name}_proj`, x, hiddenSize, size, attentionBias);
  }

  #mlp(prefix: string, x: string): string {
    const { hiddenSize, intermediateSize, mlpBias = false } = this.#config;
    const gate = this.#linear(`${prefix}mlp.gate_proj`, x, hiddenSize, intermediateSize, mlpBias);
    const up = this.#linear(`${prefix}mlp.up_proj`, x, hiddenSize, intermediateSize, mlpBias);
    const silu = this.#graph.node('Mul', [gate, this.#graph.node('Sigmoid', [gate])]);
    const gated = this.#graph.node('Mul', [silu, up]);
    return this.#linear(`${prefix}mlp.down_proj`, gated, intermediateSize, hiddenSize, mlpBias);
  }

  #norm(x: string, name: string): string {
    return rmsNorm(this.#graph, x, name, this.#weights.vector(name), this.#config.rmsNormEps);
  }

  #linear(name: string, x: string, inFeatures: number, outFeatures: number, hasBias: boolean): string {
    const out = product(this.#graph, this.#form, `${name}.weight`, x, [inFeatures, outFeatures]);
    if (!hasBias) return out;
    const bias = this.#graph.constant(`${name}.bias`, this.#weights.vector(`${name}.bias`), [outFeatures]);
    return this.#graph.node('Add', [out, bias]);
  }
}

/** (batch_size, num_logits_to_keep, vocab_size); 0 rows to keep = all of them. */
function logits(
  graph: OnnxGraph,
  config: NativeModelConfig,
  weights: DecoderWeights,
  hidden: string,
  form: DecoderForm,
): void {
  const { vocabSize, hiddenSize, rmsNormEps } = config;
  const numKept = graph.input('num_logits_to_keep', 'int64', []);
  const start = graph.node('Unsqueeze', [graph.node('Neg', [numKept]), 'zero_axis']);
  graph.constant('zero_axis', BigInt64Array.of(0n), [1]);
  const end = graph.constant('sequence_end', BigInt64Array.of(maxInt64), [1]);
  const kept = graph.node('Slice', [hidden, start, end, 'one']);
  const normName = 'model.norm.weight';
  const normed = rmsNorm(graph, kept, normName, weights.vector(normName), rmsNormEps);
  const out = product(graph, form, outputProjection, normed, [hiddenSize, vocabSize]);
  graph.node('Identity', [out], { outputs: ['logits'] });
  graph.output('logits', 'float32', ['batch_size', 'num_logits', vocabSize]);
}

/** `shape`: (in_features, out_features) */
function product(
  graph: OnnxGraph,
  form: DecoderForm,
  name: string,
  x: string,
  shape: readonly [number, number],
): string {
  return form.product?.(graph, name, x) ?? graph.node('MatMul', [x, graph.external(name, shape)]);
}
