// The Model interface on ONNX Runtime: KV goes from the pool to the graph and back, one request at a time.
import { VllmPdError } from '../errors.js';
import type { KvPool } from '../native/kv-pool.js';
import type { KvPoolLayout } from '../native/kv-pool-layout.js';
import type { ForwardInput } from '../native/model.js';
import { gatherKv, scatterKv } from './kv-blocks.js';
import type { Model } from './model.js';
import { requireOnnxFiles } from './onnx-files.js';
import type { OnnxSignature } from './onnx-signature.js';
import { OnnxThread } from './onnx-thread.js';
import type { TextConfig } from './text-config.js';

/** One request's share of a forward pass. */
interface Share {
  readonly tokenIds: Int32Array;
  /** Position of the first token. */
  readonly numPast: number;
  readonly blockTable: Int32Array;
  /** (row of the logits, token of this share) for each row that is wanted. */
  readonly logits: readonly (readonly [row: number, token: number])[];
  readonly sequence: object | undefined;
}

/** KV that lies beside the session; the same bits as in these blocks. */
interface Kept {
  readonly id: number;
  readonly numTokens: number;
  readonly blockTable: Int32Array;
}

class OnnxModel implements Model {
  readonly vocabSize: number;
  readonly maxPositionEmbeddings: number;
  readonly kvShape: Model['kvShape'];
  readonly #thread: OnnxThread;
  /** Of the sequences of the last step; one that misses a step is gathered from the pool again. */
  #kept: ReadonlyMap<object, Kept> = new Map();
  #numKept = 0;
  #running = false;

  constructor(thread: OnnxThread, signature: OnnxSignature, maxPositionEmbeddings: number) {
    const { vocabSize, numLayers, numKvHeads, headDim } = signature;
    this.vocabSize = vocabSize;
    this.maxPositionEmbeddings = maxPositionEmbeddings;
    this.kvShape = { numLayers, numKvHeads, headDim };
    this.#thread = thread;
  }

  async forward(pool: KvPool, input: ForwardInput): Promise<Float32Array> {
    this.#check(pool);
    this.#running = true;
    try {
      return await this.#forward(pool, input);
    } finally {
      this.#running = false;
    }
  }

  close(): void {
    this.#thread.close();
  }

  async #forward(pool: KvPool, input: ForwardInput): Promise<Float32Array> {
    const { vocabSize } = this;
    const logits = new Float32Array(input.logitsIndices.length * vocabSize);
    const shares = sharesOf(input);
    const before = new Map(shares.map((share) => [share, this.#keptFor(share)]));
    const reused = new Set([...before.values()].map((kept) => kept?.id));
    let forget = [...this.#kept.values()].map(({ id }) => id).filter((id) => !reused.has(id));
    const after = keeping(shares, poolTokens(pool.layout), () => this.#numKept++);
    this.#kept = after;
    for (const share of shares) {
      const { tokenIds, numPast, blockTable } = share;
      const kept = before.get(share);
      const firstToken = share.logits.reduce((first, [, token]) => Math.min(first, token), tokenIds.length);
      const numLogits = tokenIds.length - firstToken;
      const result = await this.#thread.run({
        tokenIds,
        numPast,
        past: kept
          ? { kind: 'kept', id: kept.id }
          : { kind: 'gathered', kv: await gatherKv(pool, blockTable, numPast) },
        keepAs: (share.sequence && after.get(share.sequence)?.id) ?? null,
        numLogits,
        forget,
      });
      forget = [];
      await scatterKv(pool, blockTable, numPast, tokenIds.length, result.kv);
      for (const [row, token] of share.logits) {
        const begin = (token - firstToken) * vocabSize;
        logits.set(result.logits.subarray(begin, begin + vocabSize), row * vocabSize);
      }
    }
    return logits;
  }

  #keptFor({ sequence, numPast, blockTable }: Share): Kept | null {
    const kept = sequence && this.#kept.get(sequence);
    if (kept?.numTokens !== numPast) return null;
    // Blocks behind a preempted and resumed request are others.
    const sameBlocks = kept.blockTable.every((blockId, i) => blockTable[i] === blockId);
    return sameBlocks ? kept : null;
  }

  #check({ layout }: KvPool): void {
    const refuse = (message: string) => new VllmPdError('INVALID_ARGUMENT', message);
    if (this.#running) throw refuse('Expected one forward pass at a time but another is under way.');
    const { numLayers, numKvHeads, headDim } = this.kvShape;
    const fits =
      layout.numLayers === numLayers &&
      layout.numKvHeads === numKvHeads &&
      layout.headDim === headDim &&
      layout.dtype === 'float32';
    if (fits) return;
    const shape = `${numLayers} layers, ${numKvHeads} KV heads, head size ${headDim}, float32`;
    throw refuse(`Expected a KV pool for ${shape} but received ${JSON.stringify(layout)}.`);
  }
}

/**
 * What the next step finds beside the session. Sequences that share blocks are kept one by one, so there is a limit:
 * together not more than the pool could hold.
 */
function keeping(
  shares: readonly Share[],
  maxTokens: number,
  nextId: () => number,
): ReadonlyMap<object, Kept> {
  const kept = new Map<object, Kept>();
  let numKeptTokens = 0;
  for (const { sequence, numPast, tokenIds, blockTable } of shares) {
    const numTokens = numPast + tokenIds.length;
    if (!sequence || kept.has(sequence) || numKeptTokens + numTokens > maxTokens) continue;
    kept.set(sequence, { id: nextId(), numTokens, blockTable });
    numKeptTokens += numTokens;
  }
  return kept;
}

function poolTokens({ numBlocks, blockSize }: KvPoolLayout): number {
  return numBlocks * blockSize;
}

function sharesOf(input: ForwardInput): Share[] {
  const { tokenIds, positions, cuSeqlensQ, blockTables, cuBlocks, sequences } = input;
  return Array.from({ length: cuSeqlensQ.length - 1 }, (_, i) => {
    const [begin, end] = [cuSeqlensQ[i]!, cuSeqlensQ[i + 1]!];
    return {
      // A copy: it goes to the thread.
      tokenIds: tokenIds.slice(begin, end),
      numPast: firstPosition(positions.subarray(begin, end)),
      blockTable: blockTables.slice(cuBlocks[i], cuBlocks[i + 1]),
      logits: [...input.logitsIndices.entries()]
        .filter(([, index]) => index >= begin && index < end)
        .map(([row, index]) => [row, index - begin] as const),
      sequence: sequences?.[i],
    };
  }).filter(({ tokenIds: { length } }) => length > 0);
}

/** A graph takes the tokens of one sequence one behind the other. */
function firstPosition(positions: Int32Array): number {
  const first = positions[0] ?? 0;
  const gap = positions.findIndex((position, i) => position !== first + i);
  if (gap < 0) return first;
  throw new VllmPdError(
    'INVALID_ARGUMENT',
    `Expected consecutive positions of one request but received ${positions[gap]} at index ${gap} from ${first}.`,
  );
}

/** Loads an exported decoder of the folder on a thread. Throws NOT_FOUND, BAD_FILE or NATIVE_UNAVAILABLE. */
export async function loadOnnxModel(
  modelPath: string,
  { maxPositionEmbeddings }: TextConfig,
  numThreads: number,
  onnxFile: string | null = null,
): Promise<Model> {
  const { graph } = await requireOnnxFiles(modelPath, onnxFile);
  const { thread, signature } = await OnnxThread.start({ graph, numThreads, maxPositionEmbeddings });
  return new OnnxModel(thread, signature, maxPositionEmbeddings);
}
