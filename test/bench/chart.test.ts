// The picture of a run: well-formed, the same every time, and as high as its figures say.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { renderChart } from '../../src/bench/chart.js';
import { lengthTable } from '../../src/bench/length-table.js';
import { summarizeRun } from '../../src/bench/summary.js';
import type { TurnRecord } from '../../src/bench/turn-record.js';
import { createRunInfo, createTurn } from './helpers.js';

function turn(fields: Partial<TurnRecord>): TurnRecord {
  return createTurn({ num_prompt_tokens: 400, e2el_ms: 900, ...fields });
}

const turns = [
  turn({ mode: 'uni', ledger_new: 400, ttft_ms: 40 }),
  turn({ mode: 'bi', ledger_new: 400, ttft_ms: 40 }),
  turn({ mode: 'uni', turn: 2, ledger_local_hit: 100, ledger_evicted: 300, ttft_ms: 80 }),
  turn({ mode: 'bi', turn: 2, ledger_local_hit: 100, ledger_pulled_from_d: 300, ttft_ms: 20 }),
];
const summary = summarizeRun(createRunInfo(), turns);

/** Heights in pixels of the bars of one colour. */
function barHeights(svg: string, colour: string): number[] {
  const bars = svg.matchAll(/<path d="M[\d.]+ [\d.]+l[\d.]+ 0l0 -?([\d.]+)l-[\d.]+ 0Z" fill="(#\w+)"/g);
  return [...bars].filter((bar) => bar[2] === colour && bar[1] !== '0').map((bar) => Number(bar[1]));
}

test('bars stand in the proportion of the tokens', () => {
  const svg = renderChart(summary, turns);
  const heights = {
    onP: barHeights(svg, '#0072b2'),
    pulled: barHeights(svg, '#009e73'),
    new: barHeights(svg, '#c8c8c8'),
    again: barHeights(svg, '#d55e00'),
  };
  const whole = heights.new[0]!;
  const shares = (bars: readonly number[]) => bars.map((height) => Math.round((height / whole) * 100));
  assert.equal(shares(heights.new), [100, 100]);
  assert.equal(shares(heights.onP), [25, 25]);
  assert.equal(shares(heights.again), [75]);
  assert.equal(shares(heights.pulled), [75]);
});

test('the same turns give the same bytes', () => {
  assert.is(renderChart(summary, turns), renderChart(summary, turns));
});

test('names cannot break out of the text', () => {
  const run = createRunInfo();
  const named = summarizeRun({ ...run, workload: { ...run.workload, name: '<b>&"' } }, turns);
  const svg = renderChart(named, turns);
  assert.match(svg, '&lt;b&gt;&amp;');
  assert.not.match(svg, '<b>');
});

test('a run without an answer has a picture without bars', () => {
  const failed = [createTurn({ error: 'refused' })];
  const svg = renderChart(summarizeRun(createRunInfo(), failed), failed);
  assert.match(svg, 'no turn was answered');
  assert.equal(barHeights(svg, '#c8c8c8'), []);
});

/** Contexts of 1000, 2000 and 8000 tokens; uni takes a tenth of a millisecond for each token of a follow-up turn. */
const lengths = [1000, 2000, 8000].flatMap((num_prompt_tokens) =>
  (['uni', 'bi'] as const).flatMap((mode) => [
    turn({ mode, num_prompt_tokens: num_prompt_tokens - 80, ttft_ms: 5000 }),
    turn({
      mode,
      turn: 2,
      num_prompt_tokens,
      ttft_ms: mode === 'uni' ? num_prompt_tokens / 10 : 20,
      ledger_new: num_prompt_tokens,
    }),
  ]),
);

test('where prompts differ much in length, times stand by length, first turns left out', () => {
  const svg = renderChart(summarizeRun(createRunInfo(), lengths), lengths);
  assert.match(svg, 'turns ≥ 2, by length of the prompt');
  assert.match(svg, '>8,000</text>');
  assert.not.match(svg, '5,000 ms');
  assert.not.match(renderChart(summary, turns), 'by length of the prompt');
});

test('the table by length has a row for each doubling that was played', () => {
  const table = lengthTable(summarizeRun(createRunInfo(), lengths), lengths);
  assert.match(table, /│ 512 – 1,023 +│ +1 │ +100 ms │ 20\.0 ms │ +5\.00× │/);
  assert.match(table, /│ 1,024 – 2,047 +│ +1 │ +200 ms │/);
  assert.match(table, /│ 4,096 – 8,191 +│ +1 │ +800 ms │ 20\.0 ms │ +40\.00× │/);
  assert.not.match(table, '2,048 – 4,095');
  assert.is(lengthTable(summary, turns), '');
});

test.run();
