// Single native ops and machine limits, for benchmarks: checks sizes and hands them to the native module.
import { type Addon, cross, type ProbeHandle } from './addon.js';
import { wholeNumber } from './arguments.js';

/** What a matrix of a probe is kept as. */
export type ProbeWeightType = 'float32' | 'bfloat16' | 'int8';

/** What K and V of a probe are kept as. */
export type ProbeKvType = 'float32' | 'bfloat16';

/** What `bench kernels` measures by itself. `numThreads` counts the calling thread. */
export type ProbeSpec =
  /** Multiply-adds in registers, in the instructions that multiply such weights, all threads together. */
  | {
      readonly kind: 'fma';
      readonly numThreads: number;
      readonly numFmas: number;
      readonly weightType: ProbeWeightType;
    }
  /** Reads one buffer, or streams it over `numThreads` loopback connections. */
  | { readonly kind: 'read' | 'socket'; readonly numThreads: number; readonly numBytes: number }
  /** Copies one buffer to another, round after round in the next of `numPlaces` places. */
  | {
      readonly kind: 'copy';
      readonly numThreads: number;
      readonly numBytes: number;
      readonly numPlaces: number;
    }
  /** (num_rows, k) times packed weights (n, k). */
  | {
      readonly kind: 'matmul';
      readonly numThreads: number;
      readonly numRows: number;
      readonly k: number;
      readonly n: number;
      readonly weightType: ProbeWeightType;
    }
  /**
   * `numTokens` of each request attend to themselves and `numContextTokens` before them, layer after layer; or K and V are
   * read in that order and nothing is computed.
   */
  | {
      readonly kind: 'attention' | 'attention_reads';
      readonly numThreads: number;
      readonly numRequests: number;
      readonly numTokens: number;
      readonly numContextTokens: number;
      readonly numLayers: number;
      readonly numHeads: number;
      readonly numKvHeads: number;
      readonly headDim: number;
      readonly blockSize: number;
      readonly dtype: ProbeKvType;
    };

/** A piece of native work with everything that it needs. */
export interface Probe {
  /** One round; synchronous. */
  run(): void;
  /** Idempotent. */
  close(): void;
}

const attentionSizes = [
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
] as const;

/** Names of the sizes, in the order of native/probe/probe.h. */
const sizeNames = {
  fma: ['numThreads', 'numFmas', 'weightType'],
  read: ['numThreads', 'numBytes'],
  copy: ['numThreads', 'numBytes', 'numPlaces'],
  socket: ['numThreads', 'numBytes'],
  matmul: ['numThreads', 'numRows', 'k', 'n', 'weightType'],
  attention: attentionSizes,
  attention_reads: attentionSizes,
} as const satisfies Record<ProbeSpec['kind'], readonly string[]>;

/** In the order of native/probe/probe.h. */
const weightTypes: readonly unknown[] = ['float32', 'bfloat16', 'int8'] satisfies ProbeWeightType[];

const kvTypes: readonly unknown[] = ['float32', 'bfloat16'] satisfies ProbeKvType[];

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
          ? wholeNumber(name, kvTypes.indexOf(given.get(name)), 0)
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
