// What a run reports besides: goodput, throughput, gaps between chunks, percentiles that were asked for, also of runs kept before.
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { allFigures, figuresOf } from '../../src/bench/figures.js';
import { parseObjectives, summarizeGoodput } from '../../src/bench/goodput.js';
import { metricsChoice } from '../../src/bench/metrics-choice.js';
import { summarizeRun } from '../../src/bench/summary.js';
import { summarizeThroughput } from '../../src/bench/throughput.js';
import type { TurnRecord } from '../../src/bench/turn-record.js';
import type { VllmPdError } from '../../src/errors.js';
import { createRunInfo, createTurn } from './helpers.js';

const test = suite('metrics');

const turn = (start: number, e2el: number, fields: Partial<TurnRecord> = {}) =>
  createTurn({
    mode: 'uni',
    start_time_ms: start,
    e2el_ms: e2el,
    ttft_ms: 10,
    tpot_ms: 2,
    num_prompt_tokens: 100,
    num_computed_tokens: 25,
    num_output_tokens: 5,
    ...fields,
  });

test('in a closed loop rates are over the time in which the mode had a turn under way', () => {
  // 0–100 and 50–150 overlap, then the other mode plays until 1000.
  const { duration_s, request_throughput, output_throughput, total_token_throughput } = summarizeThroughput([
    turn(50, 100),
    turn(0, 100),
    turn(1000, 50),
  ]);
  assert.is(duration_s, 0.2);
  assert.equal([request_throughput, output_throughput, total_token_throughput], [15, 75, 1575]);
});

test('in an open loop pauses are part of the load, and count', () => {
  const { duration_s } = summarizeThroughput([
    turn(0, 100, { planned_start_ms: 0 }),
    turn(1000, 500, { planned_start_ms: 900 }),
  ]);
  assert.is(duration_s, 1.5);
});

test('nothing was answered: no rates', () => {
  assert.equal(summarizeThroughput([]), {
    duration_s: 0,
    request_throughput: null,
    output_throughput: null,
    total_token_throughput: null,
  });
});

test('a good turn meets every objective; failed turns count in the denominator', () => {
  const turns = [
    turn(0, 50),
    turn(0, 50, { ttft_ms: 10.1 }),
    turn(0, 50, { tpot_ms: 3 }),
    turn(0, 50, { tpot_ms: null }),
    turn(0, 50, { error: 'refused' }),
  ];
  const goodput = summarizeGoodput(turns, parseObjectives(['ttft:10', 'tpot:2']), 4);
  assert.equal(goodput, {
    objectives: { ttft: 10, tpot: 2 },
    num_good_turns: 2,
    good_ratio: 0.4,
    request_goodput: 0.5,
  });
});

for (const text of ['ttft', 'ttft:', 'ttft:0', 'ttft:fast', 'itl:3', 'ttft:-1']) {
  test(`--goodput ${text} is refused in a whole sentence`, () => {
    assert.throws(
      () => parseObjectives([text]),
      (error: VllmPdError) =>
        error.code === 'INVALID_ARGUMENT' && error.message.endsWith(`but received '${text}'.`),
    );
  });
}

test('ITL is every gap of every turn, normalized TPOT one value a turn, the cached ratio is by tokens', () => {
  const { modes } = summarizeRun(createRunInfo(), [
    turn(0, 50, { itl_ms: [1, 2, 3] }),
    turn(0, 100, { itl_ms: [10], num_prompt_tokens: 300, num_computed_tokens: 300 }),
  ]);
  const { itl_ms, normalized_tpot_ms, cached_token_ratio } = modes.uni!;
  assert.equal([itl_ms!.mean, itl_ms!.p50], [4, 2.5]);
  assert.is(normalized_tpot_ms.mean, 15);
  assert.is(cached_token_ratio, 0.1875);
});

test('percentiles and objectives may be chosen when a run is shown again', () => {
  const choice = metricsChoice({ 'metric-percentiles': [25, 99], goodput: ['e2el:60'] });
  const { modes } = summarizeRun({ ...createRunInfo(), ...choice }, [turn(0, 50), turn(100, 100)]);
  assert.is(modes.uni!.e2el_ms.p25, 62.5);
  assert.is(modes.uni!.goodput!.good_ratio, 0.5);
  const labels = figuresOf([modes.uni!], choice.metric_percentiles).map(({ label }) => label);
  assert.ok(labels.includes('E2EL p25') && labels.includes('good turns'));
  assert.is(labels.filter((label) => label === 'TTFT p99').length, 1);
  assert.equal(metricsChoice({}), {});
});

test('a run ends with a short table, reports have every figure', () => {
  const { modes } = summarizeRun(createRunInfo(), [turn(0, 50, { itl_ms: [1] })]);
  const short = figuresOf([modes.uni!]).map(({ label }) => label);
  const all = allFigures([modes.uni!]).map(({ label }) => label);
  for (const label of ['ITL p99', 'turns per second', 'cached prompt tokens', 'TTFT std']) {
    assert.ok(all.includes(label) && !short.includes(label), label);
  }
});

test('runs from before gaps and plans were recorded can still be summarised', () => {
  const { itl_ms: _gaps, planned_start_ms: _plan, ...old } = turn(0, 50);
  const { modes } = summarizeRun(createRunInfo(), [old as TurnRecord]);
  assert.is(modes.uni!.itl_ms, undefined);
  assert.is(modes.uni!.schedule_lag_ms, undefined);
  assert.is(modes.uni!.throughput.request_throughput, 20);
  assert.not(allFigures([modes.uni!]).some(({ label }) => label.startsWith('ITL')));
});

test.run();
