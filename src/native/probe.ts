// Single native ops and machine limits, for benchmarks: checks sizes and hands them to the native module.
import type { Probe, ProbeSpec, ProbeWeightType } from '../native.js';
import { type Addon, cross, type ProbeHandle } from './addon.js';
import { kvDtypeNumber, wholeNumber } from './arguments.js';

/** Names of the sizes, in the order of native/probe.h. */
const sizeNames = {
  fma: ['numThreads', 'numFmas', 'weightType'],
  read: ['numThreads', 'numBytes'],
  copy: ['numThreads', 'numBytes'],
  socket: ['numThreads', 'numBytes'],
  matmul: ['numThreads', 'numRows', 'k', 'n', 'weightType'],
  attention: [
    'numThreads',
    'numRequests',
    'numTokens',
    'numContextTokens',
    'numLayers',
    'numHeads',
    'numKvHeads',
    'headDim',
    'blockSize',
    'dtype',
  ],
} as const satisfies Record<ProbeSpec['kind'], readonly string[]>;

/** In the order of native/probe.h. */
const weightTypes: readonly unknown[] = ['float32', 'bfloat16', 'int8'] satisfies ProbeWeightType[];

/** Bytes or multiply-adds of one round at most. */
const maxSize = 2 ** 40;

export class NativeProbe implements Probe {
  readonly #addon: Addon;
  readonly #handle: ProbeHandle;

  constructor(addon: Addon, spec: ProbeSpec) {
    const given = new Map<string, unknown>(Object.entries(spec));
    const sizes = sizeNames[spec.kind].map((name) =>
      name === 'weightType'
        ? wholeNumber(name, weightTypes.indexOf(given.get(name)), 0)
        : name === 'dtype'
          ? kvDtypeNumber(given.get(name))
          : wholeNumber(
              name,
              given.get(name),
              name === 'numContextTokens' ? 0 : 1,
              name === 'numThreads' ? 1024 : maxSize,
            ),
    );
    this.#addon = addon;
    this.#handle = cross(() => addon.createProbe(spec.kind, sizes));
  }

  run(): void {
    cross(() => this.#addon.runProbe(this.#handle));
  }

  close(): void {
    this.#addon.closeProbe(this.#handle);
  }
}
