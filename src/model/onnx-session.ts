// An exported decoder in ONNX Runtime, and the KV that it keeps from one run to the next. Blocks its thread.
import type { InferenceSession, Tensor } from 'onnxruntime-node';
import { messageOf, VllmPdError } from '../errors.js';
import { float16ToFloat32, float32ToFloat16 } from './float16.js';
import { importOnnxRuntime, type OnnxRuntime } from './onnx-runtime.js';
import { type FloatType, type OnnxSignature, readSignature, type ValueInfo } from './onnx-signature.js';

/** KV before a run: (num_layers, 2, num_kv_heads, num_past, head_dim), or what an earlier run kept, used up by this. */
export type PastKv =
  | { readonly kind: 'gathered'; readonly kv: Float32Array }
  | { readonly kind: 'kept'; readonly id: number };

/** One request's share of a step. */
export interface OnnxRun {
  /** (num_tokens) */
  readonly tokenIds: Int32Array;
  /** Tokens before these. */
  readonly numPast: number;
  readonly past: PastKv;
  /** Under which number KV of all these tokens is kept for a later run; null = not at all. */
  readonly keepAs: number | null;
  /** Logits of so many last tokens are wanted. */
  readonly numLogits: number;
  /** What was kept under these numbers is no longer needed. */
  readonly forget: readonly number[];
}

export interface OnnxOptions {
  /** Path of the graph. */
  readonly graph: string;
  readonly numThreads: number;
  /** Longest sequence that the graph can rotate. */
  readonly maxPositionEmbeddings: number;
}

export interface OnnxRunResult {
  /** (num_logits, vocab_size) */
  readonly logits: Float32Array;
  /** KV of the tokens that were run, (num_layers, 2, num_kv_heads, num_tokens, head_dim). */
  readonly kv: Float32Array;
}

/** K and V of each layer in turn, (1, num_kv_heads, num_tokens, head_dim), as the graph gave them. */
type LayerTensors = readonly Tensor[];

const kvParts = ['key', 'value'] as const;

/**
 * ONNX Runtime multiplies a single row, also one that is left over when it divides rows among blocks, by another kernel
 * than several, and the sums come out in another order. With an even number of rows a token's K, V and logits are the
 * same bits whether it is decoded alone or prefilled among others (for float32 graphs; dynamic quantisation looks at
 * all rows at once).
 */
const rowMultiple = 2;

export class OnnxSession {
  readonly signature: OnnxSignature;
  readonly #runtime: OnnxRuntime;
  readonly #session: InferenceSession;
  readonly #maxPositionEmbeddings: number;
  readonly #kept = new Map<number, LayerTensors>();

  private constructor(
    runtime: OnnxRuntime,
    session: InferenceSession,
    signature: OnnxSignature,
    maxPositionEmbeddings: number,
  ) {
    this.#maxPositionEmbeddings = maxPositionEmbeddings;
    this.#runtime = runtime;
    this.#session = session;
    this.signature = signature;
  }

  /** Throws NATIVE_UNAVAILABLE if ONNX Runtime does not load, BAD_FILE if the graph does not or is no decoder. */
  static async load({ graph, numThreads, maxPositionEmbeddings }: OnnxOptions): Promise<OnnxSession> {
    const runtime = await loadRuntime();
    let session: InferenceSession;
    try {
      session = await runtime.InferenceSession.create(graph, {
        intraOpNumThreads: numThreads,
        interOpNumThreads: 1,
        executionMode: 'sequential',
        graphOptimizationLevel: 'all',
        // Shapes differ from run to run.
        enableMemPattern: false,
        logSeverityLevel: 3,
        extra: {
          session: {
            // Idle threads that spin would take the cores from everybody else on the machine.
            intra_op: { allow_spinning: '0' },
            // Below VNNI, sums of products with signed weights saturate at 16 bits: answers are wrong, and nobody is told.
            x64quantprecision: '1',
          },
        },
      });
    } catch (cause) {
      throw new VllmPdError('BAD_FILE', `${graph}: ONNX Runtime cannot load it: ${messageOf(cause)}`, {
        cause,
      });
    }
    try {
      const inputs = valueInfos(session.inputMetadata);
      const outputs = valueInfos(session.outputMetadata);
      const signature = readSignature(graph, inputs, outputs);
      return new OnnxSession(runtime, session, signature, maxPositionEmbeddings);
    } catch (error) {
      await session.release();
      throw error;
    }
  }

  async run(run: OnnxRun): Promise<OnnxRunResult> {
    for (const id of run.forget) this.#kept.delete(id);
    const numPadding = this.#numPadding(run);
    const outputs = await this.#session.run(this.#feeds(run, numPadding), this.#fetches(run));
    if (run.past.kind === 'kept') this.#kept.delete(run.past.id);
    const present = this.#layerNames('present').map((name) => outputs[name]!);
    if (run.keepAs !== null) this.#kept.set(run.keepAs, this.#withoutPadding(present, numPadding));
    return {
      logits: run.numLogits > 0 ? rowsBefore(outputs.logits!, run.numLogits, numPadding) : new Float32Array(),
      kv: this.#newKv(present, run, numPadding),
    };
  }

  async release(): Promise<void> {
    this.#kept.clear();
    await this.#session.release();
  }

  /** Rows behind the last token; being last, nothing attends to them. */
  #numPadding({ tokenIds, numPast }: OnnxRun): number {
    const numPadding = (rowMultiple - (tokenIds.length % rowMultiple)) % rowMultiple;
    return numPast + tokenIds.length + numPadding > this.#maxPositionEmbeddings ? 0 : numPadding;
  }

  #feeds({ tokenIds, numPast, past, numLogits }: OnnxRun, numPadding: number): Record<string, Tensor> {
    const numTokens = tokenIds.length + numPadding;
    const inputIds = new BigInt64Array(numTokens);
    inputIds.set(Array.from(tokenIds, BigInt));
    const row = (values: BigInt64Array) => new this.#runtime.Tensor('int64', values, [1, values.length]);
    const feeds: Record<string, Tensor> = {
      input_ids: row(inputIds),
      attention_mask: row(new BigInt64Array(numPast + numTokens).fill(1n)),
    };
    if (this.signature.hasPositionIds) {
      feeds.position_ids = row(BigInt64Array.from({ length: numTokens }, (_, i) => BigInt(numPast + i)));
    }
    if (this.signature.hasNumLogitsToKeep) {
      // 0 would mean all of them.
      const numKept = BigInt64Array.of(BigInt(Math.max(1, numLogits + numPadding)));
      feeds.num_logits_to_keep = new this.#runtime.Tensor('int64', numKept, []);
    }
    const tensors = past.kind === 'kept' ? this.#kept.get(past.id)! : this.#pastTensors(past.kv, numPast);
    for (const [i, name] of this.#layerNames('past_key_values').entries()) feeds[name] = tensors[i]!;
    return feeds;
  }

  /** Logits that nobody wants are not copied out. */
  #fetches({ numLogits }: OnnxRun): string[] {
    const present = this.#layerNames('present');
    return numLogits > 0 ? ['logits', ...present] : present;
  }

  #layerNames(prefix: string): string[] {
    return Array.from({ length: this.signature.numLayers }, (_, layer) =>
      kvParts.map((part) => `${prefix}.${layer}.${part}`),
    ).flat();
  }

  #pastTensors(past: Float32Array, numPast: number): LayerTensors {
    const { numLayers, numKvHeads, headDim, kvType } = this.signature;
    const size = numKvHeads * numPast * headDim;
    return Array.from({ length: 2 * numLayers }, (_, i) => {
      const floats = past.subarray(i * size, (i + 1) * size);
      const shape = [1, numKvHeads, numPast, headDim];
      return kvType === 'float32'
        ? new this.#runtime.Tensor('float32', floats, shape)
        : new this.#runtime.Tensor('float16', float32ToFloat16(floats), shape);
    });
  }

  /** Rows of K or V are (num_kv_heads, num_rows, head_dim): each head's last ones go. */
  #withoutPadding(present: LayerTensors, numPadding: number): LayerTensors {
    if (numPadding === 0) return present;
    const { numKvHeads, headDim } = this.signature;
    return present.map(({ type, data, dims }) => {
      const rows = data as Float32Array | Uint16Array;
      const numRows = dims[2]! - numPadding;
      const kept = rows instanceof Float32Array ? Float32Array : Uint16Array;
      const out = new kept(numKvHeads * numRows * headDim);
      for (let head = 0; head < numKvHeads; head++) {
        const begin = head * dims[2]! * headDim;
        out.set(rows.subarray(begin, begin + numRows * headDim), head * numRows * headDim);
      }
      const shape = [1, numKvHeads, numRows, headDim];
      return new this.#runtime.Tensor(type as FloatType, out, shape);
    });
  }

  /** The rows of `present` that this run added. */
  #newKv(present: LayerTensors, { tokenIds, numPast }: OnnxRun, numPadding: number): Float32Array {
    const { numKvHeads, headDim } = this.signature;
    const rowFloats = tokenIds.length * headDim;
    const headFloats = (numPast + tokenIds.length + numPadding) * headDim;
    const kv = new Float32Array(present.length * numKvHeads * rowFloats);
    for (const [i, tensor] of present.entries()) {
      for (let head = 0; head < numKvHeads; head++) {
        const begin = head * headFloats + numPast * headDim;
        kv.set(floats(tensor, begin, begin + rowFloats), (i * numKvHeads + head) * rowFloats);
      }
    }
    return kv;
  }
}

async function loadRuntime(): Promise<OnnxRuntime> {
  try {
    return await importOnnxRuntime();
  } catch (cause) {
    throw new VllmPdError('NATIVE_UNAVAILABLE', `ONNX Runtime does not load: ${messageOf(cause)}`, {
      cause,
      suggestions: [
        'Install it: npm install onnxruntime-node@1.30.0 --onnxruntime-node-install=skip.',
        'Run the model without it: --backend cpu.',
      ],
    });
  }
}

function valueInfos(metadata: readonly InferenceSession.ValueMetadata[]): ValueInfo[] {
  return metadata.map((value) =>
    value.isTensor
      ? { name: value.name, type: value.type, shape: value.shape }
      : { name: value.name, type: null, shape: [] },
  );
}

/** Elements [begin, end) of a float32 or float16 tensor. */
function floats(tensor: Tensor, begin: number, end: number): Float32Array {
  return tensor.type === 'float16'
    ? float16ToFloat32((tensor.data as Uint16Array).subarray(begin, end))
    : (tensor.data as Float32Array).subarray(begin, end);
}

/** Of (1, num_rows, vocab_size), the last `numRows` before the padding, in memory of their own. */
function rowsBefore(logits: Tensor, numRows: number, numPadding: number): Float32Array {
  const vocabSize = logits.dims[2]!;
  const end = logits.size - numPadding * vocabSize;
  return floats(logits, end - numRows * vocabSize, end).slice();
}
