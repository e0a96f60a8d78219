// A prompt through a model in chunks, as the engine's steps would run it.
import type { Model } from '../../src/model/model.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import type { ForwardInput } from '../../src/native/model.js';

/** Block tables count from 1: block 0 is the null block. */
const firstBlock = 1;

/** Positions [start, start + tokens) of a sequence that lies in the pool's blocks one after the other. */
export function chunkInput(
  pool: KvPool,
  tokens: readonly number[],
  start: number,
  options: { readonly sequence?: object; readonly firstBlock?: number } = {},
): ForwardInput {
  const numBlocks = Math.ceil((start + tokens.length) / pool.layout.blockSize);
  return {
    tokenIds: Int32Array.from(tokens),
    positions: Int32Array.from(tokens, (_, i) => start + i),
    cuSeqlensQ: Int32Array.of(0, tokens.length),
    blockTables: Int32Array.from({ length: numBlocks }, (_, i) => (options.firstBlock ?? firstBlock) + i),
    cuBlocks: Int32Array.of(0, numBlocks),
    logitsIndices: Int32Array.from(tokens, (_, i) => i),
    ...(options.sequence && { sequences: [options.sequence] }),
  };
}

/** Logits of every token, (num_tokens, vocab_size). With a sequence, KV may be kept beside the pool. */
export async function forwardTokens(
  model: Model,
  pool: KvPool,
  prompt: readonly number[],
  chunks: readonly number[],
  sequence?: object,
): Promise<Float32Array> {
  const logits = new Float32Array(prompt.length * model.vocabSize);
  let start = 0;
  for (const size of chunks) {
    const tokens = prompt.slice(start, start + size);
    const input = chunkInput(pool, tokens, start, sequence ? { sequence } : {});
    logits.set(await model.forward(pool, input), start * model.vocabSize);
    start += size;
  }
  return logits;
}
