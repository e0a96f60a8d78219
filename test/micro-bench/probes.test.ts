// Native probes: they run, can be closed, and refuse sizes that make no sense.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import type { ProbeSpec } from '../../src/native/probe.js';
import { loadNative } from '../../src/native.js';

const attention = {
  numThreads: 2,
  numRequests: 2,
  numTokens: 3,
  numContextTokens: 0,
  numLayers: 2,
  numHeads: 4,
  numKvHeads: 2,
  headDim: 16,
  blockSize: 16,
  dtype: 'bfloat16',
} as const;

const specs: readonly ProbeSpec[] = [
  { kind: 'fma', numThreads: 2, numFmas: 1e6, weightType: 'float32' },
  { kind: 'read', numThreads: 2, numBytes: 1 << 20 },
  { kind: 'copy', numThreads: 2, numBytes: 1 << 20, numPlaces: 3 },
  { kind: 'socket', numThreads: 2, numBytes: 1 << 20 },
  { kind: 'matmul', numThreads: 2, numRows: 13, k: 37, n: 70, weightType: 'int8' },
  { kind: 'attention', ...attention },
  { kind: 'attention_reads', ...attention, numContextTokens: 600 },
];

for (const spec of specs) {
  test(`${spec.kind} takes time, more for more of it, and nothing after it is closed`, () => {
    const probe = loadNative().createProbe(spec);
    const ms = (numRounds: number) => {
      const begin = performance.now();
      for (let i = 0; i < numRounds; i += 1) probe.run();
      return performance.now() - begin;
    };
    ms(1);
    const once = ms(1);
    assert.ok(Number.isFinite(once) && once > 0);
    assert.ok(ms(200) > once);
    probe.close();
    probe.close();
    assert.throws(() => probe.run(), /The probe is closed/);
  });
}

test('a probe of no threads, of parts of a byte or of too much is refused', () => {
  const wrong: readonly ProbeSpec[] = [
    { kind: 'fma', numThreads: 0, numFmas: 1, weightType: 'float32' },
    { kind: 'read', numThreads: 1, numBytes: 1.5 },
    { kind: 'matmul', numThreads: 1, numRows: 1, k: 0, n: 1, weightType: 'float32' },
    { kind: 'copy', numThreads: 1, numBytes: 2 ** 50, numPlaces: 1 },
    { kind: 'copy', numThreads: 1, numBytes: 1024, numPlaces: 0 },
  ];
  for (const spec of wrong) {
    assert.throws(
      () => loadNative().createProbe(spec),
      (error: unknown) => error instanceof VllmPdError && error.code === 'INVALID_ARGUMENT',
    );
  }
});

test.run();
