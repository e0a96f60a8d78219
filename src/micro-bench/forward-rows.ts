// The whole model's forward pass: prefill against the multiply-add peak, decode against reading all weights.
import { resolveKvCacheDtype } from '../model/kv-cache-dtype.js';
import { loadModel, type WeightChoice } from '../model/native-model.js';
import type { ForwardInput } from '../native/model.js';
import type { NativeModelConfig } from '../native/model-config.js';
import type { ProbeWeightType } from '../native/probe.js';
import { loadNative } from '../native.js';
import {
  bytesPerWeight,
  memoryRead,
  multiplyPeak,
  type ProbeWork,
  peakNames,
  weightTypes,
  withProbeLimit,
} from './probe-work.js';
import type { Contest, RowGroup, Work } from './row-plan.js';

const weightChoices = {
  float32: { dtype: 'float32' },
  bfloat16: { dtype: 'bfloat16' },
  int8: { quantization: 'int8' },
} as const satisfies Record<ProbeWeightType, WeightChoice>;
const numPrefillTokens = 512;
const numRequests = 8;
/** Tokens that every decoding request has behind it. */
const numDecodeContextTokens = 64;
const blockSize = 16;

export function forwardGroups(
  model: NativeModelConfig,
  modelPath: string,
  threads: readonly number[],
): RowGroup[] {
  const numWeights = numMatmulWeights(model);
  return threads.flatMap((numThreads) =>
    weightTypes.map((weightType): RowGroup => {
      const common = { threads: numThreads, unit: 'tokens/s', isDetail: weightType === 'float32' };
      const prepare = (subject: Step, limit: Step | ProbeWork) =>
        prepareForward(modelPath, numThreads, weightType, subject, limit);
      const peak = multiplyPeak(numThreads, weightType);
      const one: Step = { numRequests: 1, numTokens: 1, begin: numDecodeContextTokens };
      return {
        family: 'forward',
        rows: [
          {
            ...common,
            name: `${weightType} prefill ${numPrefillTokens}`,
            limit: peakNames[weightType],
            // Tokens that the peak would make in one of its rounds.
            prepare: () =>
              prepare(
                { numRequests: 1, numTokens: numPrefillTokens, begin: 0 },
                { ...peak, amount: (peak.amount * 1e9) / flopsPerPrefillToken(model) },
              ),
          },
          {
            ...common,
            name: `${weightType} decode 1`,
            limit: 'read of the weights',
            prepare: () =>
              prepare(one, { ...memoryRead(numThreads, bytesPerWeight[weightType] * numWeights), amount: 1 }),
          },
          {
            ...common,
            name: `${weightType} decode ${numRequests}`,
            limit: `${numRequests} × decode 1`,
            // Four times as fast as one after the other.
            asked: { kind: 'ratio', atLeast: 4 / numRequests },
            prepare: () => prepare({ ...one, numRequests }, one),
          },
        ],
      };
    }),
  );
}

/** Weights that a token is multiplied with; the logits are of one token a request only. */
function numMatmulWeights(model: NativeModelConfig, withLogits = true): number {
  const { hiddenSize, intermediateSize, numHeads, numKvHeads, headDim, numLayers, vocabSize } = model;
  const attention = hiddenSize * headDim * (2 * numHeads + 2 * numKvHeads);
  return (
    numLayers * (attention + 3 * hiddenSize * intermediateSize) + (withLogits ? vocabSize * hiddenSize : 0)
  );
}

function flopsPerPrefillToken(model: NativeModelConfig): number {
  const { numLayers, numHeads, headDim } = model;
  const meanContext = (numPrefillTokens + 1) / 2;
  return 2 * numMatmulWeights(model, false) + 4 * numLayers * numHeads * headDim * meanContext;
}

/** `numTokens` at positions `begin`… of each request. */
interface Step {
  readonly numRequests: number;
  readonly numTokens: number;
  readonly begin: number;
}

async function prepareForward(
  modelPath: string,
  numThreads: number,
  weightType: ProbeWeightType,
  subject: Step,
  limit: Step | ProbeWork,
): Promise<Contest> {
  const model = await loadModel(modelPath, numThreads, weightChoices[weightType]);
  const blocksPerRequest = numPrefillTokens / blockSize;
  const pool = loadNative().createPool({
    ...model.kvShape,
    dtype: resolveKvCacheDtype('auto', 'cpu', loadNative().defaultDtype),
    blockSize,
    numBlocks: numRequests * blocksPerRequest,
  });
  const work = (step: Step, amount: number): Work => {
    const input = forwardInput(step, blocksPerRequest, model.vocabSize);
    return {
      amount,
      run: async () => {
        await model.forward(pool, input);
      },
    };
  };
  // What is decoded behind must have been computed.
  const context = { numRequests, numTokens: numDecodeContextTokens, begin: 0 };
  await model.forward(pool, forwardInput(context, blocksPerRequest, model.vocabSize));
  const close = () => {
    model.close();
    pool.close();
  };
  const subjectWork = work(subject, subject.numRequests * subject.numTokens);
  if ('spec' in limit) return withProbeLimit(subjectWork, limit, close);
  // As many tokens as the subject's in the time of one: the best that a batch could be.
  return { subject: subjectWork, limit: work(limit, subjectWork.amount), close };
}

/** The last token of each request wants logits. */
function forwardInput(step: Step, blocksPerRequest: number, vocabSize: number): ForwardInput {
  const { numRequests: count, numTokens, begin } = step;
  const each = <T>(of: (request: number) => T) => Array.from({ length: count }, (_, request) => of(request));
  const positions = each(() => Array.from({ length: numTokens }, (_, i) => begin + i)).flat();
  return {
    tokenIds: Int32Array.from(positions, (position, i) => (position * 31 + i * 17) % vocabSize),
    positions: Int32Array.from(positions),
    cuSeqlensQ: Int32Array.from({ length: count + 1 }, (_, i) => i * numTokens),
    blockTables: Int32Array.from({ length: count * blocksPerRequest }, (_, i) => i),
    cuBlocks: Int32Array.from({ length: count + 1 }, (_, i) => i * blocksPerRequest),
    logitsIndices: Int32Array.from(each((request) => (request + 1) * numTokens - 1)),
  };
}
