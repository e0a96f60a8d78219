// Rows times packed weights: against the multiply-add peak, and, with one row, against reading the weights.
import type { NativeModelConfig } from '../native/model-config.js';
import type { ProbeWeightType } from '../native/probe.js';
import {
  bytesPerWeight,
  memoryRead,
  multiplyPeak,
  numUncachedBytes,
  peakNames,
  probeContest,
  weightTypes,
} from './probe-work.js';
import type { RowGroup, RowPlan } from './row-plan.js';

interface MatrixShape {
  readonly k: number;
  readonly n: number;
}

const rowCounts = [1, 16, 128, 512] as const;
const squareShape: MatrixShape = { k: 2048, n: 2048 };
const gemvK = 4096;

/** From 128 rows on. */
const askedOfPeak: Readonly<Record<ProbeWeightType, number | null>> = {
  float32: null,
  bfloat16: 0.7,
  int8: 0.55,
};

/** The model's matrices and one larger: one group for each type and number of threads. */
export function matmulGroups(model: NativeModelConfig, threads: readonly number[]): RowGroup[] {
  return threads.flatMap((numThreads) =>
    weightTypes.flatMap((weightType) => [
      ...[...shapesOf(model), squareShape].map((shape) => ({
        family: 'gemm',
        rows: rowCounts.map((numRows) => ({
          ...matmulRow(weightType, numThreads, numRows, shape),
          isDetail: isDetail(model, weightType, numRows, shape),
        })),
      })),
      {
        family: 'gemv',
        rows: [
          {
            ...matmulRow(weightType, numThreads, 1, gemvShape(weightType)),
            isDetail: weightType === 'float32',
          },
        ],
      },
    ]),
  );
}

function gemvShape(weightType: ProbeWeightType): MatrixShape {
  return { k: gemvK, n: numUncachedBytes / bytesPerWeight[weightType] / gemvK };
}

/** The square shape and the model's largest one in a layer stand for the others; of float32 one row does. */
function isDetail(
  { hiddenSize, intermediateSize }: NativeModelConfig,
  weightType: ProbeWeightType,
  numRows: number,
  shape: MatrixShape,
): boolean {
  if (weightType === 'float32') return shape !== squareShape || numRows < 512;
  const isGateUp = shape.k === hiddenSize && shape.n === 2 * intermediateSize;
  return numRows === 1 || (shape !== squareShape && !isGateUp);
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

function matmulRow(
  weightType: ProbeWeightType,
  numThreads: number,
  numRows: number,
  { k, n }: MatrixShape,
): RowPlan {
  const spec = { kind: 'matmul', numThreads, numRows, k, n, weightType } as const;
  const common = { name: `${weightType} ${numRows} × ${k} × ${n}`, threads: numThreads };
  if (numRows === 1) {
    // Every weight is used once: reading them is the work.
    const numBytes = bytesPerWeight[weightType] * k * n;
    const subject = { spec, amount: numBytes / 1e9 };
    return {
      ...common,
      unit: 'GB/s',
      limit: 'memory read',
      // Of weights that no cache keeps.
      ...(k === gemvK && weightType !== 'float32' && { asked: { kind: 'ratio', atLeast: 0.9 } }),
      prepare: () => probeContest(subject, memoryRead(numThreads, numBytes)),
    };
  }
  const atLeast = askedOfPeak[weightType];
  const subject = { spec, amount: (2 * numRows * k * n) / 1e9 };
  return {
    ...common,
    unit: weightType === 'int8' ? 'GOP/s' : 'GFLOP/s',
    limit: peakNames[weightType],
    ...(atLeast !== null && numRows >= 128 && { asked: { kind: 'ratio', atLeast } }),
    prepare: () => probeContest(subject, multiplyPeak(numThreads, weightType)),
  };
}
