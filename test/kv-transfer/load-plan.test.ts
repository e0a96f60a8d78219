// The hop planner and what it goes by: sources, cuts and fitted costs.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { StoreTier } from '../../src/kv-store/kv-store.js';
import { LinearFit, TransferCosts } from '../../src/kv-transfer/cost-model.js';
import { type LoadInputs, planLoad } from '../../src/kv-transfer/load-plan.js';

/** Blocks 0 … of a prompt: `.` nowhere, `d` dedicated, `s` shared, `b` both. */
function inputs(stored: string, over: Partial<LoadInputs> = {}): LoadInputs {
  const tiers: Record<string, readonly StoreTier[]> = {
    d: ['dedicated'],
    s: ['shared'],
    b: ['dedicated', 'shared'],
  };
  return {
    blockSize: 16,
    blockBytes: 16_384,
    numLocalTokens: 0,
    numPeerTokens: 0,
    numStorableTokens: stored.length * 16,
    tiersOf: (i) => tiers[stored[i] ?? '.'] ?? [],
    minTokens: 1,
    hopPlanner: true,
    costs: new TransferCosts(),
    ...over,
  };
}

test('what a store holds is read there, what only the peer has from the peer, and nothing behind a gap', () => {
  const plan = planLoad(inputs('ssd.s', { numPeerTokens: 64 }));
  assert.equal(plan.sources, ['shared', 'shared', 'dedicated', 'peer', 'shared']);
  assert.is(plan.numExternalTokens, 80);
  assert.equal(plan.isTwoHop, [false, false, false, false, false]);
  assert.equal(planLoad(inputs('ss.s')).sources, ['shared', 'shared']);
});

test('without the planner the peer goes first, and what the shared store had too is counted', () => {
  const plan = planLoad(inputs('sd.s', { numPeerTokens: 48, hopPlanner: false }));
  assert.equal(plan.sources, ['peer', 'peer', 'peer', 'shared']);
  assert.equal(plan.isTwoHop, [true, false, false, false]);
});

test('a partly filled last block comes from the peer, and nothing is behind it', () => {
  const plan = planLoad(inputs('s.s', { numPeerTokens: 25, numStorableTokens: 48 }));
  assert.equal(plan.sources, ['shared', 'peer']);
  assert.is(plan.numExternalTokens, 25);
});

test('local blocks are skipped, and a threshold refuses what is too little', () => {
  assert.is(planLoad(inputs('ssss', { numLocalTokens: 32 })).numExternalTokens, 32);
  assert.is(planLoad(inputs('ssss', { numLocalTokens: 32, minTokens: 33 })).numExternalTokens, 0);
});

test('auto reads what is cheaper to read, computes what is cheaper to compute, and cuts between sources', () => {
  const costs = new TransferCosts();
  for (let i = 1; i <= 60; i += 1) {
    costs.observePrefill(16 * i, 16 * i);
    costs.observeRead('dedicated', 16_384 * i, 0.1 * i);
    costs.observeRead('shared', 16_384 * i, 1000 * i);
  }
  const plan = planLoad(inputs('ddss', { minTokens: 'auto', costs }));
  assert.equal(plan.sources, ['dedicated', 'dedicated']);
  assert.is(plan.numExternalTokens, 32);
  assert.is(plan.estimate?.numTokens, 64);
  assert.is(planLoad(inputs('ssss', { minTokens: 'auto', costs })).numExternalTokens, 0);
  // Where both hold a block the cheaper one is read.
  assert.equal(planLoad(inputs('bb', { costs })).sources, ['dedicated', 'dedicated']);
});

test('a fit finds latency and slope, forgets what was long ago, and is never negative', () => {
  const fit = new LinearFit({ latencyMs: 100, slope: 100, typicalX: 10 });
  for (let i = 0; i < 400; i += 1) fit.observe((i % 20) + 1, 3 + 2 * ((i % 20) + 1));
  assert.ok(Math.abs(fit.predict(10) - 23) < 0.5, String(fit.predict(10)));
  for (let i = 0; i < 400; i += 1) fit.observe((i % 20) + 1, 50 - ((i % 20) + 1));
  assert.ok(fit.predict(1000) >= 0);
  assert.ok(fit.predict(1) >= 0);
  fit.observe(Number.NaN, 5);
  assert.ok(Number.isFinite(fit.predict(5)));
});

test.run();
