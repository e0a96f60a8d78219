// A small decoder with seeded random weights, written as a raw file of tensors, one after the other.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { KvCacheDtype } from '../../src/config.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import type { NativeModel } from '../../src/native/model.js';
import type { NativeModelConfig, TensorDtype, TensorLocation } from '../../src/native/model-config.js';
import { loadNative, type Native } from '../../src/native.js';

export type Weights = ReadonlyMap<
  string,
  { readonly shape: readonly number[]; readonly values: Float32Array }
>;

export interface RandomModel {
  readonly config: NativeModelConfig;
  /** As the native module sees them: already rounded to the file's dtype. */
  readonly weights: Weights;
  readonly tensors: readonly TensorLocation[];
  readonly file: string;
  remove(): void;
}

/** Mulberry32: uniform in [-1, 1). */
export function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}

export function modelConfig(changes: Partial<NativeModelConfig> = {}): NativeModelConfig {
  const headDim = changes.headDim ?? 16;
  return {
    vocabSize: 101,
    hiddenSize: 48,
    intermediateSize: 72,
    numLayers: 2,
    numHeads: 4,
    numKvHeads: 2,
    headDim,
    rmsNormEps: 1e-6,
    qkNorm: false,
    attentionBias: false,
    tieWordEmbeddings: true,
    invFreq: Float32Array.from({ length: headDim / 2 }, (_, i) => 10_000 ** ((-2 * i) / headDim)),
    ropeAttentionScaling: 1,
    ...changes,
  };
}

function shapesOf(config: NativeModelConfig): [name: string, shape: number[]][] {
  const { hiddenSize, intermediateSize, vocabSize, headDim } = config;
  const q = config.numHeads * headDim;
  const kv = config.numKvHeads * headDim;
  const shapes: [string, number[]][] = [
    ['model.embed_tokens.weight', [vocabSize, hiddenSize]],
    ['model.norm.weight', [hiddenSize]],
  ];
  if (!config.tieWordEmbeddings) shapes.push(['lm_head.weight', [vocabSize, hiddenSize]]);
  for (let layer = 0; layer < config.numLayers; layer++) {
    const add = (name: string, ...shape: number[]) => shapes.push([`model.layers.${layer}.${name}`, shape]);
    add('input_layernorm.weight', hiddenSize);
    add('post_attention_layernorm.weight', hiddenSize);
    for (const [name, size] of [
      ['q', q],
      ['k', kv],
      ['v', kv],
    ] as const) {
      add(`self_attn.${name}_proj.weight`, size, hiddenSize);
      if (config.attentionBias) add(`self_attn.${name}_proj.bias`, size);
    }
    if (config.qkNorm) {
      add('self_attn.q_norm.weight', headDim);
      add('self_attn.k_norm.weight', headDim);
    }
    add('self_attn.o_proj.weight', hiddenSize, q);
    add('mlp.gate_proj.weight', intermediateSize, hiddenSize);
    add('mlp.up_proj.weight', intermediateSize, hiddenSize);
    add('mlp.down_proj.weight', hiddenSize, intermediateSize);
    if (config.outputBias) add('self_attn.o_proj.bias', hiddenSize);
    if (!config.mlpBias) continue;
    add('mlp.gate_proj.bias', intermediateSize);
    add('mlp.up_proj.bias', intermediateSize);
    add('mlp.down_proj.bias', hiddenSize);
  }
  return shapes;
}

/** The bits of one float in the file, and the float they stand for. */
function encode(value: number, dtype: TensorDtype): { bits: number; value: number } {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!;
  if (dtype === 'F32') return { bits, value: Math.fround(value) };
  if (dtype === 'BF16') {
    return { bits: bits >>> 16, value: new Float32Array(Uint32Array.of(bits & 0xffff0000).buffer)[0]! };
  }
  // Half precision by truncation; magnitudes here lie between 2^-24 and 2.
  const sign = value < 0 ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  const exponent = Math.max(-14, Math.floor(Math.log2(magnitude || 2 ** -24)));
  const mantissa = Math.floor((magnitude / 2 ** exponent) * 1024);
  const normal = mantissa >= 1024;
  const stored = normal ? ((exponent + 15) << 10) | (mantissa - 1024) : mantissa;
  return { bits: sign | stored, value: Math.sign(value) * mantissa * 2 ** (exponent - 10) };
}

export function createRandomModel(
  changes: Partial<NativeModelConfig> = {},
  dtype: TensorDtype = 'F32',
): RandomModel {
  const config = modelConfig(changes);
  const random = createRandom(7);
  const folder = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-native-'));
  const file = path.join(folder, 'weights.bin');
  const chunks: Buffer[] = [];
  const weights = new Map<string, { shape: number[]; values: Float32Array }>();
  const tensors: TensorLocation[] = [];
  let offset = 0;
  for (const [name, shape] of shapesOf(config)) {
    const isNorm = name.endsWith('norm.weight');
    const size = shape.reduce((product, length) => product * length, 1);
    const bytes = dtype === 'F32' ? 4 : 2;
    const data = Buffer.alloc(size * bytes);
    const values = new Float32Array(size);
    for (let i = 0; i < size; i++) {
      const spread = shape.length === 2 && !name.includes('embed') ? 2 / Math.sqrt(shape[1]!) : 0.5;
      const element = encode(isNorm ? 1 + 0.3 * random() : spread * random(), dtype);
      values[i] = element.value;
      data.writeUIntLE(element.bits, i * bytes, bytes);
    }
    chunks.push(data);
    weights.set(name, { shape, values });
    tensors.push({ name, path: file, dtype, shape, offset, length: data.length });
    offset += data.length;
  }
  writeFileSync(file, Buffer.concat(chunks));
  return { config, weights, tensors, file, remove: () => rmSync(folder, { recursive: true }) };
}

export function createPool(
  config: NativeModelConfig,
  numBlocks: number,
  blockSize: number,
  dtype: KvCacheDtype = 'float32',
  native: Native = loadNative(),
): KvPool {
  const { numLayers, numKvHeads, headDim } = config;
  return native.createPool({ numBlocks, numLayers, numKvHeads, blockSize, headDim, dtype });
}

/** Tokens [begin, end) of a sequence that lies in the blocks of `blockTable`. */
export interface Chunk {
  readonly tokens: readonly number[];
  readonly begin: number;
  readonly end: number;
  readonly blockTable: readonly number[];
}

/** One step over all chunks; one logits row for each of their tokens, in order. */
export async function forwardChunks(
  model: NativeModel,
  pool: KvPool,
  chunks: readonly Chunk[],
): Promise<Float32Array[]> {
  const prefixSums = (lengths: readonly number[]) => {
    let sum = 0;
    return Int32Array.from([0, ...lengths.map((length) => (sum += length))]);
  };
  const positions = chunks.flatMap(({ begin, end }) =>
    Array.from({ length: end - begin }, (_, i) => begin + i),
  );
  const logits = await model.forward(pool, {
    tokenIds: Int32Array.from(chunks.flatMap(({ tokens, begin, end }) => tokens.slice(begin, end))),
    positions: Int32Array.from(positions),
    cuSeqlensQ: prefixSums(chunks.map(({ begin, end }) => end - begin)),
    blockTables: Int32Array.from(chunks.flatMap(({ blockTable }) => blockTable)),
    cuBlocks: prefixSums(chunks.map(({ blockTable }) => blockTable.length)),
    logitsIndices: Int32Array.from(positions, (_, i) => i),
  });
  const { vocabSize } = model.config;
  return positions.map((_, i) => logits.subarray(i * vocabSize, (i + 1) * vocabSize));
}
