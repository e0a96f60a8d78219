// Paged attention in the model's shape: prefill against the multiply-add peak, decode against reading K and V.
import type { NativeModelConfig } from '../native/model-config.js';
import type { ProbeKvType } from '../native/probe.js';
import { memoryRead, multiplyPeak, numUncachedBytes, probeContest } from './probe-work.js';
import type { RowGroup, RowPlan } from './row-plan.js';

const numPrefillTokens = 512;
const numContextTokens = 4096;
const blockSize = 16;
const dtypes: readonly ProbeKvType[] = ['float32', 'bfloat16'];

export function attentionGroups(model: NativeModelConfig, threads: readonly number[]): RowGroup[] {
  return threads.map((numThreads) => ({
    family: 'attention',
    rows: [
      ...dtypes.flatMap((dtype) => {
        // As many together as caches do not hold the K and V of.
        const numRequests = Math.ceil(numUncachedBytes / bytesPerRequest(model, dtype));
        return [
          prefillRow(model, numThreads, 0, dtype),
          prefillRow(model, numThreads, numContextTokens, dtype),
          ...[...new Set([numRequests, 1])].flatMap((count) => [
            decodeRow(model, numThreads, count, dtype),
            readsRow(model, numThreads, count, dtype),
          ]),
        ];
      }),
    ],
  }));
}

function shapeOf({ numLayers, numHeads, numKvHeads, headDim }: NativeModelConfig, dtype: ProbeKvType) {
  return { numLayers, numHeads, numKvHeads, headDim, blockSize, dtype };
}

/** Of K and V of a decoding request, all layers. */
function bytesPerRequest({ numLayers, numKvHeads, headDim }: NativeModelConfig, dtype: ProbeKvType): number {
  const elementBytes = dtype === 'bfloat16' ? 2 : 4;
  return elementBytes * 2 * numLayers * numKvHeads * headDim * numContextTokens;
}

function prefillRow(
  model: NativeModelConfig,
  numThreads: number,
  contextTokens: number,
  dtype: ProbeKvType,
): RowPlan {
  const shape = shapeOf(model, dtype);
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
    name: `prefill ${numPrefillTokens} over ${contextTokens} ${dtype}`,
    threads: numThreads,
    unit: 'GFLOP/s',
    limit: 'FMA peak',
    prepare: () => probeContest({ spec, amount: flops / 1e9 }, multiplyPeak(numThreads, 'float32')),
  };
}

/** One token of each request over its context. */
function decodeRow(
  model: NativeModelConfig,
  numThreads: number,
  numRequests: number,
  dtype: ProbeKvType,
): RowPlan {
  return {
    ...readingRow(model, 'attention', numThreads, numRequests, dtype),
    name: `decode ${numRequests} × 1 over ${numContextTokens} ${dtype}`,
    asked: { kind: 'ratio', atLeast: 0.75 },
  };
}

/** What the order in which decoding reads allows: where this row is as slow as decoding, computing is not what it waits for. */
function readsRow(
  model: NativeModelConfig,
  numThreads: number,
  numRequests: number,
  dtype: ProbeKvType,
): RowPlan {
  return {
    ...readingRow(model, 'attention_reads', numThreads, numRequests, dtype),
    name: `reads of ${numRequests} × 1 over ${numContextTokens} ${dtype}`,
  };
}

/** A probe that goes through K and V of all requests once, against reading as many bytes. */
function readingRow(
  model: NativeModelConfig,
  kind: 'attention' | 'attention_reads',
  numThreads: number,
  numRequests: number,
  dtype: ProbeKvType,
): Omit<RowPlan, 'name'> {
  const spec = {
    kind,
    numThreads,
    numRequests,
    numTokens: 1,
    numContextTokens: numContextTokens - 1,
    ...shapeOf(model, dtype),
  } as const;
  const numBytes = bytesPerRequest(model, dtype) * numRequests;
  return {
    threads: numThreads,
    unit: 'GB/s',
    limit: 'memory read',
    prepare: () => probeContest({ spec, amount: numBytes / 1e9 }, memoryRead(numThreads, numBytes)),
  };
}
