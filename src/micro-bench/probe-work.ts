// Native probes as work: single ops, and the machine's own limits.

import type { ProbeSpec, ProbeWeightType } from '../native/probe.js';
import { loadNative } from '../native.js';
import type { Contest, Work } from './row-plan.js';

/** A native probe; `amount` in the row's unit. */
export interface ProbeWork {
  readonly spec: ProbeSpec;
  readonly amount: number;
}

/** Multiply-adds of one round of the FMA limit, about a millisecond of one core. */
const numFmas = 1e8;

/** What is read once in a round has as many bytes, or another type of numbers would be read from a cache that keeps half as many. */
export const numUncachedBytes = 128 * 2 ** 20;

export const weightTypes: readonly ProbeWeightType[] = ['float32', 'bfloat16', 'int8'];

export const bytesPerWeight = { float32: 4, bfloat16: 2, int8: 1 } as const satisfies Record<
  ProbeWeightType,
  number
>;

/** What multiplies each weight type is called in tables. */
export const peakNames = {
  float32: 'FMA peak',
  bfloat16: 'bf16 peak',
  int8: 'int8 peak',
} as const satisfies Record<ProbeWeightType, string>;

/** The register-resident multiply-add peak of the chosen kernels for such weights, in GFLOP/s (int8: GOP/s). */
export function multiplyPeak(numThreads: number, weightType: ProbeWeightType): ProbeWork {
  return {
    spec: { kind: 'fma', numThreads, numFmas: numFmas * numThreads, weightType },
    amount: (2 * numFmas * numThreads) / 1e9,
  };
}

/** Reading one buffer of as many bytes, in GB/s. */
export function memoryRead(numThreads: number, numBytes: number): ProbeWork {
  return { spec: { kind: 'read', numThreads, numBytes }, amount: numBytes / 1e9 };
}

/** memcpy of as many bytes, round after round in the next of so many places, in GB/s. */
export function memoryCopy(numThreads: number, numBytes: number, numPlaces: number): ProbeWork {
  return { spec: { kind: 'copy', numThreads, numBytes, numPlaces }, amount: numBytes / 1e9 };
}

/** Streams of as many bytes over that many connections on loopback, native at both ends, in GB/s. */
export function socketStream(numConnections: number, numBytes: number): ProbeWork {
  return {
    spec: { kind: 'socket', numThreads: numConnections, numBytes },
    amount: numBytes / 1e9,
  };
}

/** Both are probes. */
export function probeContest(subject: ProbeWork, limit: ProbeWork): Contest {
  const probes = [subject, limit].map(({ spec }) => loadNative().createProbe(spec));
  const work = ({ amount }: ProbeWork, i: number): Work => ({ amount, run: () => probes[i]!.run() });
  return {
    subject: work(subject, 0),
    limit: work(limit, 1),
    close: () => {
      for (const probe of probes) probe.close();
    },
  };
}

/** The subject runs elsewhere, its limit is a probe. */
export function withProbeLimit(subject: Work, limit: ProbeWork, close: Contest['close']): Contest {
  const probe = loadNative().createProbe(limit.spec);
  return {
    subject,
    limit: { amount: limit.amount, run: () => probe.run() },
    close: async () => {
      probe.close();
      await close();
    },
  };
}
