// What rows are asked to reach, against what was measured.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KernelRow } from '../../src/micro-bench/kernel-row.js';
import { rowsToCsv } from '../../src/micro-bench/kernel-table.js';
import { judge, type Measured } from '../../src/micro-bench/target.js';

/** 50 of 100 GB/s; a round takes 3 ms, its limit 1. */
const measured: Measured = { unit: 'GB/s', value: 50, ratio: 0.5, ms: 3, limitMs: 1 };

test('a share of the limit', () => {
  assert.equal(judge({ kind: 'ratio', atLeast: 0.5 }, measured), {
    asked: '≥ 0.50',
    reached: '0.50',
    is_reached: true,
  });
  assert.not.ok(judge({ kind: 'ratio', atLeast: 0.51 }, measured).is_reached);
});

test('a rate in the unit of the row', () => {
  const asked = judge({ kind: 'rate', atLeast: 20e6 }, { ...measured, unit: 'tokens/s', value: 18.24e6 });
  assert.equal(asked, { asked: '≥ 20 M tokens/s', reached: '18.2 M tokens/s', is_reached: false });
});

test('the time of one of what is counted', () => {
  const steps = { ...measured, unit: 'steps/s', value: 15_000 };
  assert.ok(judge({ kind: 'time', atMostMs: 0.1 }, steps).is_reached);
  assert.not.ok(judge({ kind: 'time', atMostMs: 0.05 }, steps).is_reached);
});

test('the time of a round beyond that of its limit, never below nothing', () => {
  assert.equal(judge({ kind: 'added time', atMostMs: 1 }, measured), {
    asked: '≤ 1.00 ms more',
    reached: '2.00 ms more',
    is_reached: false,
  });
  const faster = judge({ kind: 'added time', atMostMs: 1 }, { ...measured, ms: 0.5 });
  assert.equal([faster.reached, faster.is_reached], ['0 ms more', true]);
});

test('in CSV a row that fails is told from one that nothing is asked of', () => {
  const row: KernelRow = {
    ...{
      family: 'core',
      name: 'a',
      threads: 1,
      unit: 'steps/s',
      value: 1,
      limit: 'b',
      limit_value: 2,
      ratio: 0.5,
    },
    ...{ asked: '≥ 0.90', reached: '0.50', is_reached: false },
    ...{ ms_p25: 1, ms_p50: 1, ms_p75: 1, num_rounds: 1 },
    ...{ limit_ms_p25: 1, limit_ms_p50: 1, limit_ms_p75: 1, num_limit_rounds: 1 },
  };
  const unasked = { ...row, asked: null, reached: null, is_reached: null };
  const [head, failed, none] = rowsToCsv([row, unasked])
    .split('\n')
    .map((line) => line.split(','));
  const column = head!.indexOf('is_reached');
  assert.equal([failed![column], none![column]], ['false', '']);
});

test.run();
