// What reads and prefills are thought to cost: fitted to measurements, and never less than nothing.
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { LinearFit, TransferCosts } from '../../src/kv-transfer/cost-model.js';

const prior = { latencyMs: 1, slope: 0.5, typicalX: 64 };

test('a line that was measured often is what is predicted', () => {
  const fit = new LinearFit(prior);
  for (let i = 0; i < 400; i += 1) fit.observe(10 + (i % 7) * 20, 3 + 0.25 * (10 + (i % 7) * 20));
  for (const x of [16, 100, 1000]) {
    const expected = 3 + 0.25 * x;
    assert.ok(Math.abs(fit.predict(x) - expected) < 0.01 * expected, `${fit.predict(x)} for ${expected}`);
  }
});

// Two nodes once refused each other's statistics over a prediction below zero.
test('no measurements make a prediction negative', () => {
  const measurement = fc.record({
    x: fc.double({ min: 1e-3, max: 1e6, noNaN: true }),
    ms: fc.double({ min: 0, max: 1e6, noNaN: true }),
  });
  fc.assert(
    fc.property(
      fc.array(measurement, { maxLength: 60 }),
      fc.double({ min: 1e-3, max: 1e6, noNaN: true }),
      (all, x) => {
        const fit = new LinearFit(prior);
        for (const { x: at, ms } of all) fit.observe(at, ms);
        return fit.predict(x) >= 0;
      },
    ),
    { seed: 1, numRuns: 500 },
  );
});

test('short prefills that cost nothing beside a slow long one are not predicted to cost less than nothing', () => {
  const costs = new TransferCosts();
  for (let i = 0; i < 100; i += 1) costs.observePrefill(i % 2 === 0 ? 16 : 256, i % 2 === 0 ? 0 : 400);
  assert.ok(costs.prefillMs(16) >= 0, String(costs.prefillMs(16)));
  assert.ok(costs.prefillMs(1) >= 0, String(costs.prefillMs(1)));
});

test.run();
