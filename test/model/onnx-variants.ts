// Decoders in the forms in which the field publishes them: quantised and half-precision weights, attention without GQA.
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { float16ToFloat32, float32ToFloat16 } from '../../src/model/float16.js';
import { readModelConfig } from '../../src/model/model-config.js';
import { numElements } from '../../src/model/model-tensors.js';
import {
  type AttentionNode,
  buildDecoder,
  type DecoderForm,
  encodeDecoder,
} from '../../src/model/onnx-decoder.js';
import type { OnnxGraph } from '../../src/model/onnx-graph.js';
import { writeSafetensors } from '../../src/model/safetensors-writer.js';
import { storedTensors } from '../../src/model/stored-tensors.js';
import { createRandom, llamaConfig, withFolder } from './model-folders.js';

/** (out_features, in_features), as checkpoints have it. */
interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float32Array;
}

export interface Variant {
  /** Behind `model_` in the file's name. */
  readonly name: string;
  /** What the stored form stands for: the checkpoint gets these values. */
  readonly rounded: (matrix: Matrix) => Float32Array;
  readonly form: (matrixOf: (name: string) => Matrix) => DecoderForm;
  /** Of the logits' relative error against the native module's on the same values. */
  readonly tolerance: number;
}

const contrib = 'com.microsoft';
const blockSize = 32;

/** One scale for each block of a row: the largest magnitude becomes `levels`. */
function blockScales({ rows, columns, values }: Matrix, perBlock: number, levels: number): Float32Array {
  const numBlocks = columns / perBlock;
  return Float32Array.from({ length: rows * numBlocks }, (_, i) => {
    const block = values.subarray(i * perBlock, (i + 1) * perBlock);
    return block.reduce((max, value) => Math.max(max, Math.abs(value)), 0) / levels;
  });
}

function codes(matrix: Matrix, perBlock: number, levels: number) {
  const scales = blockScales(matrix, perBlock, levels);
  const scaleOf = (i: number) => scales[Math.floor(i / perBlock)]!;
  const values = Int8Array.from(matrix.values, (value, i) => Math.round(value / scaleOf(i)));
  return { scales, values, rounded: Float32Array.from(values, (code, i) => code * scaleOf(i)) };
}

/** Two codes a byte, the first in the low half, 8 for zero: (rows, blocks, block_size / 2) */
function packed(values: Int8Array): Uint8Array {
  return Uint8Array.from(
    { length: values.length / 2 },
    (_, i) => (values[2 * i]! + 8) | ((values[2 * i + 1]! + 8) << 4),
  );
}

function transposed<T extends Float32Array | Int8Array | Uint16Array>(
  values: T,
  rows: number,
  columns: number,
): T {
  return values.map((_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!) as T;
}

const q4: Variant = {
  name: 'q4',
  rounded: (matrix) => codes(matrix, blockSize, 7).rounded,
  form: (matrixOf) => ({
    product: (graph, name, x) => {
      const matrix = matrixOf(name);
      const { scales, values } = codes(matrix, blockSize, 7);
      const { rows, columns } = matrix;
      const weights = graph.constant(`${name}_q4`, packed(values), [
        rows,
        columns / blockSize,
        blockSize / 2,
      ]);
      const scale = graph.constant(`${name}_scales`, scales, [rows, columns / blockSize]);
      return graph.node('MatMulNBits', [x, weights, scale], {
        domain: contrib,
        attributes: { K: columns, N: rows, bits: 4, block_size: blockSize },
      });
    },
  }),
  tolerance: 1e-4,
};

/** As optimum's dynamic quantisation: activations become int8 as they come, by the largest of the whole run. */
const int8: Variant = {
  name: 'quantized',
  rounded: (matrix) => codes(matrix, matrix.columns, 127).rounded,
  form: (matrixOf) => ({
    product: (graph, name, x) => {
      const matrix = matrixOf(name);
      const { rows, columns } = matrix;
      const { scales, values } = codes(matrix, columns, 127);
      const weights = graph.constant(`${name}_quantized`, transposed(values, rows, columns), [columns, rows]);
      const [codesOfX, scaleOfX, zeroOfX] = ['codes', 'scale', 'zero'].map((part) => `${name}_x_${part}`);
      graph.node('DynamicQuantizeLinear', [x], { outputs: [codesOfX!, scaleOfX!, zeroOfX!] });
      const sums = graph.node('MatMulInteger', [codesOfX!, weights, zeroOfX!]);
      const floats = graph.node('Cast', [sums], { attributes: { to: { dtype: 'float32' } } });
      const scale = graph.node('Mul', [scaleOfX!, graph.constant(`${name}_scale`, scales, [rows])]);
      return graph.node('Mul', [floats, scale]);
    },
  }),
  tolerance: 0.1,
};

const fp16: Variant = {
  name: 'fp16',
  rounded: ({ values }) => float16ToFloat32(float32ToFloat16(values)),
  form: (matrixOf) => ({
    product: (graph, name, x) => {
      const { rows, columns, values } = matrixOf(name);
      const halves = transposed(float32ToFloat16(values), rows, columns);
      const half = graph.node('Cast', [x], { attributes: { to: { dtype: 'float16' } } });
      const weights = graph.constant(`${name}_fp16`, halves, [columns, rows]);
      const out = graph.node('MatMul', [half, weights]);
      return graph.node('Cast', [out], { attributes: { to: { dtype: 'float32' } } });
    },
  }),
  tolerance: 1e-3,
};

/** Attention of basic operators, as exports without ONNX Runtime's own operators have it. */
const plain: Variant = {
  name: 'fp32',
  rounded: ({ values }) => values,
  form: () => ({ attention: plainAttention }),
  tolerance: 1e-4,
};

export const variants: readonly Variant[] = [q4, int8, fp16, plain];

const numHeads = 4;
const numKvHeads = 2;
const headDim = 16;

function plainAttention(graph: OnnxGraph, { layer, q, k, v, past, present }: AttentionNode): string {
  const name = (part: string) => `layer_${layer}_${part}`;
  const shape = (part: string, ...sizes: number[]) =>
    graph.constant(name(part), BigInt64Array.from(sizes, BigInt), [sizes.length]);
  const swapped = (x: string) => graph.node('Transpose', [x], { attributes: { perm: [0, 2, 1, 3] } });
  const heads = (x: string, part: string, count: number) =>
    swapped(graph.node('Reshape', [x, shape(part, 0, 0, count, headDim)]));
  const [keys, values] = [k, v].map((x, i) =>
    graph.node('Concat', [past[i]!, heads(x, `kv_shape_${i}`, numKvHeads)], {
      attributes: { axis: 2 },
      outputs: [present[i]!],
    }),
  );
  // (batch, kv_heads, group, tokens, head_dim) against (batch, kv_heads, 1, all_tokens, head_dim)
  const grouped = graph.node('Reshape', [
    heads(q, 'q_shape', numHeads),
    shape('groups', 0, numKvHeads, numHeads / numKvHeads, -1, headDim),
  ]);
  const axis2 = shape('axis_2', 2);
  const keysAcross = graph.node('Transpose', [graph.node('Unsqueeze', [keys!, axis2])], {
    attributes: { perm: [0, 1, 2, 4, 3] },
  });
  const scale = graph.constant(name('scale'), Float32Array.of(1 / Math.sqrt(headDim)), []);
  const scores = graph.node('Mul', [graph.node('MatMul', [grouped, keysAcross]), scale]);
  const masked = graph.node('Add', [scores, causalMask(graph, name, shape)]);
  const weights = graph.node('Softmax', [masked], { attributes: { axis: -1 } });
  const mixed = graph.node('MatMul', [weights, graph.node('Unsqueeze', [values!, axis2])]);
  const merged = graph.node('Reshape', [mixed, shape('merged', 0, numHeads, -1, headDim)]);
  return graph.node('Reshape', [swapped(merged), shape('flat', 0, 0, numHeads * headDim)]);
}

/** (batch, 1, 1, tokens, all_tokens): 0 where a token may look, a large negative number elsewhere. */
function causalMask(
  graph: OnnxGraph,
  name: (part: string) => string,
  shape: (part: string, ...sizes: number[]) => string,
): string {
  const scalar = (part: string, value: bigint) => graph.constant(name(part), BigInt64Array.of(value), []);
  const length = graph.node('Squeeze', [
    graph.node('Shape', ['attention_mask'], { attributes: { start: 1 } }),
  ]);
  const keyPositions = graph.node('Range', [scalar('first', 0n), length, scalar('step', 1n)]);
  const queryPositions = graph.node('Unsqueeze', ['position_ids', shape('mask_axes', 1, 2, 4)]);
  const isSeen = graph.node('LessOrEqual', [keyPositions, queryPositions]);
  const [seen, hidden] = [0, -1e9].map((value, i) =>
    graph.constant(name(`mask_${i}`), Float32Array.of(value), []),
  );
  return graph.node('Where', [isSeen, seen!, hidden!]);
}

const config = {
  ...llamaConfig,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: numHeads,
  num_key_value_heads: numKvHeads,
  head_dim: headDim,
  vocab_size: 96,
};

function drawn(length: number, std: number, seed: number): Float32Array {
  const random = createRandom(seed);
  return Float32Array.from({ length }, () => std * 3.46 * (random() - 0.5));
}

/** A folder whose safetensors hold exactly what its quantised graph stands for. */
export function withVariant<T>(variant: Variant, use: (folder: string) => Promise<T>): Promise<T> {
  return withFolder({ 'config.json': config }, async (folder) => {
    const modelConfig = await readModelConfig(folder);
    const drawnTensors = storedTensors(modelConfig).map(({ name, shape }, i) => {
      const [rows = 0, columns = 0] = shape;
      const values = drawn(numElements(shape), shape.length === 1 ? 1 : 2 / Math.sqrt(columns), i + 1);
      return { name, shape, matrix: { rows, columns, values } };
    });
    const isProduct = ({ name, shape }: { readonly name: string; readonly shape: readonly number[] }) =>
      shape.length === 2 && !name.includes('embed_tokens');
    const stored = new Map(
      drawnTensors.map((tensor) => [
        tensor.name,
        isProduct(tensor) ? variant.rounded(tensor.matrix) : tensor.matrix.values,
      ]),
    );
    const bytesOf = (name: string) => {
      const { buffer, byteOffset, byteLength } = stored.get(name)!;
      return new Uint8Array(buffer, byteOffset, byteLength);
    };
    await writeSafetensors(
      path.join(folder, 'model.safetensors'),
      drawnTensors.map(({ name, shape }) => ({ name, shape, dtype: 'F32', chunks: () => [bytesOf(name)] })),
    );
    await mkdir(path.join(folder, 'onnx'));
    const file = `model_${variant.name}.onnx`;
    const matrices = new Map(drawnTensors.map(({ name, matrix }) => [name, matrix]));
    const form = variant.form((name) => matrices.get(name)!);
    const weights = { vector: (name: string) => stored.get(name)! };
    const graph = buildDecoder(modelConfig, weights, `${file}_data`, form);
    await writeFile(path.join(folder, 'onnx', file), encodeDecoder(graph));
    const external = graph.externalTensors.map(({ name, shape, offset }) => {
      const values = stored.get(name)!;
      const [rows, columns] = [shape[1]!, shape[0]!];
      const isEmbedding = name.includes('embed_tokens');
      return { offset, floats: isEmbedding ? values : transposed(values, rows, columns) };
    });
    const end = external.reduce((max, { offset, floats }) => Math.max(max, offset + floats.byteLength), 0);
    const data = Buffer.alloc(end);
    for (const { offset, floats } of external) {
      data.set(new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength), offset);
    }
    await writeFile(path.join(folder, 'onnx', `${file}_data`), data);
    return use(folder);
  });
}
