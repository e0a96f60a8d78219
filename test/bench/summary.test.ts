// Figures from recorded turns: what counts, and over which turns.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { summarizeRun } from '../../src/bench/summary.js';
import { expectedColumns, ledgerOf, type TurnRecord } from '../../src/bench/turn-record.js';
import { createRunInfo, createTurn } from './helpers.js';

function turn(
  mode: 'uni' | 'bi',
  number: number,
  ttft: number,
  again: number,
  fields: Partial<TurnRecord> = {},
) {
  return createTurn({
    mode,
    turn: number,
    num_prompt_tokens: 100,
    num_computed_tokens: 20 + again,
    num_recomputed_tokens: again,
    ledger_local_hit: 80 - again,
    ledger_new: 20,
    ledger_generated_on_d: again,
    num_output_tokens: 10,
    ttft_ms: ttft,
    tpot_ms: 5,
    e2el_ms: ttft + 45,
    kv_bytes_p_to_d: 1000,
    kv_bytes_d_to_p: mode === 'bi' ? 500 : 0,
    ...fields,
  });
}

const turns = [
  turn('uni', 1, 9999, 0, { warmup: true }),
  turn('uni', 1, 100, 0),
  turn('bi', 1, 110, 0),
  turn('bi', 2, 20, 5),
  turn('uni', 2, 80, 40),
  turn('uni', 3, 120, 40),
  turn('bi', 3, 30, 5, { output_sha256: 'ffff' }),
  turn('bi', 4, 0, 0, { error: 'refused', ttft_ms: null, num_prompt_tokens: 0 }),
];
const summary = summarizeRun(createRunInfo(), turns);

test('the summary has exactly run, modes and comparison', () => {
  assert.equal(Object.keys(summary), ['run', 'modes', 'comparison']);
  assert.equal(Object.keys(summary.modes), ['uni', 'bi']);
});

test('a mode sums its answered turns, without warm-up', () => {
  const { uni, bi } = summary.modes;
  assert.equal([uni!.num_turns, uni!.num_failed_turns], [3, 0]);
  assert.equal([bi!.num_turns, bi!.num_failed_turns], [4, 1]);
  assert.is(uni!.num_prompt_tokens, 300);
  assert.is(uni!.num_computed_tokens, 140);
  assert.is(uni!.num_recomputed_tokens, 80);
  assert.is(uni!.ledger.generated_on_d, 80);
  assert.is(bi!.kv_bytes_d_to_p, 1500);
  assert.equal(uni!.ttft_ms, { mean: 100, std: 16.33, p50: 100, p90: 116, p99: 119.6 });
});

test('follow-up figures leave out first turns', () => {
  const { follow_up } = summary.modes.uni!;
  assert.is(follow_up.num_turns, 2);
  assert.is(follow_up.ttft_ms.p50, 100);
  assert.is(follow_up.num_recomputed_tokens, 80);
});

test('the comparison is over turns answered in both modes, its speed-ups over turns from the second on', () => {
  assert.equal(summary.comparison, {
    num_identical_outputs: 2,
    num_turns: 3,
    recomputed_tokens_ratio: 0.125,
    computed_tokens_ratio: 0.5,
    ttft_turns: 'follow_up',
    ttft_speedup_p50: 4,
    ttft_speedup_mean: 4,
    ttft_speedup_p50_all_turns: 3.3333,
    ttft_speedup_mean_all_turns: 1.875,
    reuse: null,
    no_gain: { num_turns: 1, ttft_added_ms_p50: 10 },
  });
});

test('what bi costs where it cannot help is over the turns of which it computed as much as uni', () => {
  const even = [110, 103, 90].flatMap((ms, i) => [turn('uni', i + 1, 100, 5), turn('bi', i + 1, ms, 5)]);
  const gained = [turn('uni', 4, 100, 40), turn('bi', 4, 20, 5)];
  const { comparison } = summarizeRun(createRunInfo(), [...even, ...gained]);
  assert.equal(comparison!.no_gain, { num_turns: 3, ttft_added_ms_p50: 3 });
  assert.is(summarizeRun(createRunInfo(), gained).comparison!.no_gain, null);
});

test('the reuse efficiency is over the turns that were asked once more, and only these', () => {
  const asked = [
    turn('uni', 2, 100, 40, { full_hit_ttft_ms: 20 }),
    turn('bi', 2, 24, 5),
    turn('uni', 3, 500, 40),
    turn('bi', 3, 400, 5),
  ];
  assert.equal(summarizeRun(createRunInfo(), asked).comparison!.reuse, {
    num_turns: 1,
    ttft_uni_p50: 100,
    ttft_bi_p50: 24,
    ttft_full_hit_p50: 20,
    reuse_efficiency: 0.95,
  });
  const useless = [turn('uni', 2, 10, 40, { full_hit_ttft_ms: 10 }), turn('bi', 2, 12, 5)];
  assert.is(summarizeRun(createRunInfo(), useless).comparison!.reuse!.reuse_efficiency, null);
});

test('one mode alone is not compared', () => {
  const workload = { ...createRunInfo().workload, modes: ['bi'] as const };
  const alone = summarizeRun(createRunInfo({ workload }), turns);
  assert.is(alone.comparison, null);
  assert.equal(Object.keys(alone.modes), ['bi']);
});

test('turns that the closed form determines are counted, equal ones apart', () => {
  const right = { ...turns[1]!, ...expectedColumns(ledgerOf(turns[1]!)) };
  const wrong = { ...turns[4]!, ...expectedColumns(ledgerOf(turns[1]!)) };
  const { modes } = summarizeRun(createRunInfo(), [right, wrong, turns[5]!]);
  assert.equal(modes.uni!.closed_form, { num_checked: 2, num_equal: 1 });
});

test('a prompt that does not begin with the turn before is counted as a template mismatch', () => {
  const mismatch = turn('uni', 2, 1, 0, { num_history_tokens: 50, num_matching_history_tokens: 49 });
  assert.is(summarizeRun(createRunInfo(), [mismatch]).modes.uni!.num_template_mismatches, 1);
});

test('a run without any answered turn has null where it has no figures', () => {
  const empty = summarizeRun(createRunInfo(), []);
  assert.is(empty.modes.uni!.ttft_ms.p50, null);
  assert.is(empty.comparison!.ttft_speedup_p50, null);
  assert.is(empty.comparison!.recomputed_tokens_ratio, null);
});

test('schedule lag is over turns that had a plan, and degrades the run above 500 ms', () => {
  const sent = (lag: number, mode: 'uni' | 'bi') =>
    createTurn({ mode, start_time_ms: 1000 + lag, planned_start_ms: 1000, ttft_ms: 1 });
  const { modes } = summarizeRun(createRunInfo(), [
    ...[0, 10, 20].map((lag) => sent(lag, 'uni')),
    ...[0, 600, 600].map((lag) => sent(lag, 'bi')),
  ]);
  assert.is(modes.uni!.schedule_lag_ms!.p50, 10);
  assert.equal([modes.uni!.degraded, modes.bi!.degraded], [false, true]);
  const closed = summarizeRun(createRunInfo(), [createTurn({ mode: 'uni', ttft_ms: 1 })]);
  assert.is(closed.modes.uni!.schedule_lag_ms, undefined);
});

test.run();
