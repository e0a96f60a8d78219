// Greedy answers straight from a model, one sequence at a time, the way the engine would make them.
import { VllmPdError } from '../../src/errors.js';
import type { Model } from '../../src/model/model.js';
import type { ModelFolder } from '../../src/model/model-folder.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import { loadNative } from '../../src/native.js';

const blockSize = 16;
const maxTokensPerStep = 512;

/** Says so on stdout, as the test runner counts it. */
export function nativeIsMissing(): boolean {
  try {
    loadNative();
    return false;
  } catch (error) {
    if (!(error instanceof VllmPdError) || error.code !== 'NATIVE_UNAVAILABLE') throw error;
    console.log(`skipped: ${error.message}`);
    return true;
  }
}

export interface Answer {
  readonly tokenIds: readonly number[];
  /** Best minus second best logit at each token. */
  readonly margins: readonly number[];
}

export async function withPool<T>(
  model: Model,
  numTokens: number,
  use: (pool: KvPool) => Promise<T>,
): Promise<T> {
  const numBlocks = Math.ceil(numTokens / blockSize) + 1;
  const pool = loadNative().createPool({ ...model.kvShape, blockSize, numBlocks, dtype: 'float32' });
  try {
    return await use(pool);
  } finally {
    pool.close();
  }
}

/** The pool must hold prompt and answer. Suppressed tokens are left out as in the engine's sampler. */
export async function greedyAnswer(
  { model, generationConfig }: Pick<ModelFolder, 'model' | 'generationConfig'>,
  pool: KvPool,
  prompt: readonly number[],
  numTokens: number,
): Promise<Answer> {
  const suppressed = new Set(generationConfig.suppressTokens);
  const tokenIds: number[] = [];
  const margins: number[] = [];
  let position = 0;
  let next = prompt;
  while (tokenIds.length < numTokens) {
    let logits: Float32Array = new Float32Array();
    for (let start = 0; start < next.length; start += maxTokensPerStep) {
      const chunk = next.slice(start, start + maxTokensPerStep);
      logits = await forward(model, pool, chunk, position);
      position += chunk.length;
    }
    const { best, margin } = argmax(logits, suppressed);
    tokenIds.push(best);
    margins.push(margin);
    next = [best];
  }
  return { tokenIds, margins };
}

function forward(model: Model, pool: KvPool, tokens: readonly number[], position: number) {
  const numBlocks = Math.ceil((position + tokens.length) / blockSize);
  return model.forward(pool, {
    tokenIds: Int32Array.from(tokens),
    positions: Int32Array.from(tokens, (_, i) => position + i),
    cuSeqlensQ: Int32Array.of(0, tokens.length),
    // Block 0 is the null block, as in the engine.
    blockTables: Int32Array.from({ length: numBlocks }, (_, i) => i + 1),
    cuBlocks: Int32Array.of(0, numBlocks),
    logitsIndices: Int32Array.of(tokens.length - 1),
  });
}

function argmax(logits: Float32Array, suppressed: ReadonlySet<number>): { best: number; margin: number } {
  let best = -1;
  let bestLogit = -Infinity;
  let secondLogit = -Infinity;
  for (const [id, logit] of logits.entries()) {
    if (suppressed.has(id) || logit <= secondLogit) continue;
    if (logit > bestLogit) {
      secondLogit = bestLogit;
      bestLogit = logit;
      best = id;
    } else {
      secondLogit = logit;
    }
  }
  return { best, margin: bestLogit - secondLogit };
}
