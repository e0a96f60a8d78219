// Rows times packed weights: against the multiply-add peak, and, with one row, against reading the weights.
import type { NativeModelConfig } from '../native.js';
import { fmaPeak, memoryRead, probeContest } from './probe-work.js';
import type { RowGroup, RowPlan } from './row-plan.js';

interface MatrixShape {
  readonly k: number;
  readonly n: number;
}

const rowCounts = [1, 16, 128, 512] as const;
const squareShape: MatrixShape = { k: 2048, n: 2048 };
/** 256 MiB of weights: more than caches hold. */
const gemvShape: MatrixShape = { k: 4096, n: 16_384 };

/** The model's matrices and one larger: one group for each and number of threads. */
export function matmulGroups(model: NativeModelConfig, threads: readonly number[]): RowGroup[] {
  return threads.flatMap((numThreads) => [
    ...[...shapesOf(model), squareShape].map((shape) => ({
      family: 'gemm',
      rows: rowCounts.map((numRows) => matmulRow(numThreads, numRows, shape)),
    })),
    { family: 'gemv', rows: [matmulRow(numThreads, 1, gemvShape)] },
  ]);
}

/** Q, K and V in one, attention output, gate and up in one, down, logits; equal ones once. */
function shapesOf(model: NativeModelConfig): MatrixShape[] {
  const { hiddenSize, intermediateSize, numHeads, numKvHeads, headDim, vocabSize } = model;
  const shapes = [
    { k: hiddenSize, n: (numHeads + 2 * numKvHeads) * headDim },
    { k: numHeads * headDim, n: hiddenSize },
    { k: hiddenSize, n: 2 * intermediateSize },
    { k: intermediateSize, n: hiddenSize },
    { k: hiddenSize, n: vocabSize },
  ];
  return [...new Map(shapes.map((shape) => [`${shape.k} ${shape.n}`, shape])).values()];
}

function matmulRow(numThreads: number, numRows: number, { k, n }: MatrixShape): RowPlan {
  const spec = { kind: 'matmul', numThreads, numRows, k, n } as const;
  const common = { name: `${numRows} × ${k} × ${n}`, threads: numThreads };
  if (numRows === 1) {
    // Every weight is used once: reading them is the work.
    const numBytes = 4 * k * n;
    const subject = { spec, amount: numBytes / 1e9 };
    return {
      ...common,
      unit: 'GB/s',
      limit: 'memory read',
      prepare: () => probeContest(subject, memoryRead(numThreads, numBytes)),
    };
  }
  const subject = { spec, amount: (2 * numRows * k * n) / 1e9 };
  return {
    ...common,
    unit: 'GFLOP/s',
    limit: 'FMA peak',
    prepare: () => probeContest(subject, fmaPeak(numThreads)),
  };
}
