// Requests and schedulers for the control plane's rows: no model runs, every step samples token 1.
import type { BlockTableSink } from '../core/block-table-sink.js';
import { Scheduler } from '../core/scheduler.js';
import { loadNative } from '../native.js';
import type { SchedulerOutput } from '../outputs.js';
import { defaultSamplingParams, Request, type RequestInit } from '../request.js';

export const blockSize = 16;

/** Blocks are published to nobody. */
const sink: BlockTableSink = { publish() {}, retract() {} };

export function createScheduler(numBlocks: number, maxTokens: number, maxNumSeqs = 1): Scheduler {
  return new Scheduler({
    engineId: 'micro-bench',
    cache: { blockSize, numBlocks, enablePrefixCaching: true, hashSeed: '0' },
    scheduler: {
      maxNumSeqs,
      maxNumBatchedTokens: maxTokens,
      maxModelLen: maxTokens,
      maxWaiting: 1024,
      policy: 'fcfs',
    },
    connector: null,
    sink,
    hashBlocks: loadNative().hashBlocks,
    clock: () => 0,
  });
}

/** Token ids as a vocabulary of 32k words has them; requests of different seeds share no block. */
export function promptTokens(count: number, seed = 0): number[] {
  return Array.from({ length: count }, (_, i) => (Math.imul(i + 1, 2_654_435_761) + seed * 977) >>> 17);
}

export function createRequest(
  init: Pick<RequestInit, 'requestId' | 'promptTokenIds' | 'cacheQuery'>,
): Request {
  const samplingParams = { ...defaultSamplingParams, maxTokens: 1e9, temperature: 0, ignoreEos: true };
  return new Request({ ...init, samplingParams }, 0);
}

/** One whole step, as the engine core makes it. */
export function step(scheduler: Scheduler): SchedulerOutput {
  const output = scheduler.schedule();
  const sampledTokenIds = new Map<string, number>();
  for (const { request, samples } of output.scheduled) if (samples) sampledTokenIds.set(request.requestId, 1);
  scheduler.updateFromOutput(output, {
    sampledTokenIds,
    logprobs: new Map(),
    promptLogprobs: new Map(),
    kvConnectorOutput: null,
  });
  return output;
}
