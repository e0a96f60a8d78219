// Means and percentiles against values that numpy gives.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ratio, summarize } from '../../src/bench/stats.js';

test('percentiles interpolate as numpy.percentile does', () => {
  // numpy.percentile([15, 20, 35, 40, 50], [50, 90, 99]) → 35, 46, 49.6
  assert.equal(summarize([40, 15, 50, 20, 35]), { mean: 32, std: 12.884, p50: 35, p90: 46, p99: 49.6 });
  assert.is(summarize([1, 2, 3, 4]).p50, 2.5);
});

test('further percentiles are named by their number', () => {
  const summary = summarize([15, 20, 35, 40, 50], [50, 25, 99.9]);
  assert.equal(Object.keys(summary), ['mean', 'std', 'p50', 'p90', 'p99', 'p25', 'p99.9']);
  assert.equal([summary.p25, summary['p99.9']], [20, 49.96]);
});

test('one value is every percentile', () => {
  assert.equal(summarize([7.5]), { mean: 7.5, std: 0, p50: 7.5, p90: 7.5, p99: 7.5 });
});

test('what was not measured is left out, and nothing at all is null', () => {
  assert.equal(summarize([null, 4, null]), { mean: 4, std: 0, p50: 4, p90: 4, p99: 4 });
  assert.equal(summarize([null]), { mean: null, std: null, p50: null, p90: null, p99: null });
});

test('a ratio that would say nothing is null', () => {
  assert.is(ratio(1, 3), 0.3333);
  assert.is(ratio(0, 5), 0);
  assert.is(ratio(5, 0), null);
  assert.is(ratio(null, 5), null);
});

test.run();
