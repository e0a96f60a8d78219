// What the soak tests are arranged with: the tiny model, a small pool, and every fault there is.
import { faultKinds } from '../../src/chaos/fault.js';
import type { SoakOptions } from '../../src/chaos/soak.js';
import { resolveModel } from '../../src/model/resolve-model.js';

process.env.VLLM_PD_LOG_LEVEL ??= 'silent';
const model = await resolveModel('tiny', { backend: 'cpu' });

export const engine = {
  model,
  servedModelName: 'tiny',
  numThreads: 1,
  cache: { numBlocks: 192 },
  scheduler: { maxModelLen: 1024 },
} as const;

export function options(over: Partial<SoakOptions>): SoakOptions {
  return {
    name: 'test',
    engine,
    mode: 'bi',
    lookup: 'query',
    seed: 1,
    numTurns: 12,
    numClients: 4,
    faultEvery: 1,
    kinds: faultKinds,
    timeoutMs: 30_000,
    timeLimitMs: null,
    signal: new AbortController().signal,
    ...over,
  };
}

export function withTransfer(kvTransfer: object) {
  return { ...engine, kvTransfer: { kvRecomputeThreshold: 16, kvLeaseDurationMs: 2000, ...kvTransfer } };
}
