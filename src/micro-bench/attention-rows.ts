// Paged attention in the model's shape: prefill against the multiply-add peak, decode against reading K and V.
import type { NativeModelConfig } from '../native.js';
import { memoryRead, multiplyPeak, probeContest } from './probe-work.js';
import type { RowGroup, RowPlan } from './row-plan.js';

const numPrefillTokens = 512;
const numContextTokens = 4096;
/** Requests that decode together, so that their K and V are more than caches hold. */
const numDecodeRequests = 4;
const blockSize = 16;

export function attentionGroups(model: NativeModelConfig, threads: readonly number[]): RowGroup[] {
  return threads.map((numThreads) => ({
    family: 'attention',
    rows: [
      prefillRow(model, numThreads, 0),
      prefillRow(model, numThreads, numContextTokens),
      decodeRow(model, numThreads),
    ],
  }));
}

function shapeOf({ numLayers, numHeads, numKvHeads, headDim }: NativeModelConfig) {
  return { numLayers, numHeads, numKvHeads, headDim, blockSize, dtype: 'float32' } as const;
}

function prefillRow(model: NativeModelConfig, numThreads: number, contextTokens: number): RowPlan {
  const shape = shapeOf(model);
  const spec = {
    kind: 'attention',
    numThreads,
    numRequests: 1,
    numTokens: numPrefillTokens,
    numContextTokens: contextTokens,
    ...shape,
  } as const;
  // Causal: a token sees the context, those before it and itself; scores and weighted values, 2 flops each.
  const numPairs = numPrefillTokens * contextTokens + (numPrefillTokens * (numPrefillTokens + 1)) / 2;
  const flops = 4 * shape.numLayers * shape.numHeads * shape.headDim * numPairs;
  return {
    name: `prefill ${numPrefillTokens} over ${contextTokens}`,
    threads: numThreads,
    unit: 'GFLOP/s',
    limit: 'FMA peak',
    prepare: () => probeContest({ spec, amount: flops / 1e9 }, multiplyPeak(numThreads, 'float32')),
  };
}

function decodeRow(model: NativeModelConfig, numThreads: number): RowPlan {
  const shape = shapeOf(model);
  const spec = {
    kind: 'attention',
    numThreads,
    numRequests: numDecodeRequests,
    numTokens: 1,
    numContextTokens: numContextTokens - 1,
    ...shape,
  } as const;
  const numBytes =
    4 * 2 * shape.numLayers * shape.numKvHeads * shape.headDim * numContextTokens * numDecodeRequests;
  return {
    name: `decode ${numDecodeRequests} × 1 over ${numContextTokens}`,
    threads: numThreads,
    unit: 'GB/s',
    limit: 'memory read',
    prepare: () => probeContest({ spec, amount: numBytes / 1e9 }, memoryRead(numThreads, numBytes)),
  };
}
