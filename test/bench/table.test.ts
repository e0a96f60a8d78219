// What a run looks like on a terminal, and kept runs side by side.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { renderComparison } from '../../src/bench/compare-runs.js';
import { exportRun } from '../../src/bench/export-run.js';
import {
  bar,
  formatBytes,
  formatMs,
  formatPercent,
  formatSpeedup,
  stackedBar,
} from '../../src/bench/format.js';
import { summarizeRun } from '../../src/bench/summary.js';
import { headline, renderRun } from '../../src/bench/table.js';
import type { TurnRecord } from '../../src/bench/turn-record.js';
import { createRunInfo, createTurn } from './helpers.js';

const first: Partial<TurnRecord> = {
  num_prompt_tokens: 200,
  num_computed_tokens: 200,
  ledger_new: 200,
  ttft_ms: 100,
  e2el_ms: 900,
};
const uniSecond: Partial<TurnRecord> = {
  turn: 2,
  num_prompt_tokens: 550,
  num_computed_tokens: 358,
  num_recomputed_tokens: 307,
  ledger_local_hit: 192,
  ledger_partial_block: 8,
  ledger_generated_on_d: 299,
  ledger_new: 51,
  kv_bytes_p_to_d: 35 * 16384,
  ttft_ms: 179,
  e2el_ms: 900,
};
const biSecond: Partial<TurnRecord> = {
  ...uniSecond,
  num_computed_tokens: 54,
  num_recomputed_tokens: 3,
  ledger_pulled_from_d: 304,
  ledger_partial_block: 3,
  ledger_generated_on_d: 0,
  kv_bytes_d_to_p: 19 * 16384,
  ttft_ms: 45,
};
const turns = [
  createTurn({ ...first, mode: 'uni' }),
  createTurn({ ...first, mode: 'bi' }),
  createTurn({ ...uniSecond, mode: 'uni' }),
  createTurn({ ...biSecond, mode: 'bi' }),
];
const run = createRunInfo({ checks: [{ name: 'outputs are identical', ok: true, detail: '2 turns' }] });
const summary = summarizeRun(run, turns);

test('where a conversation moves between decode nodes it is said what the ledger cannot know', () => {
  const render = (routing: 'session' | 'round-robin') => {
    const { config } = createRunInfo();
    const nodes = { num_prefill_nodes: 1, num_decode_nodes: 2, decode_routing: routing };
    return renderRun(summarizeRun(createRunInfo({ config: { ...config!, ...nodes } }), turns), turns);
  };
  assert.match(render('round-robin'), /! With --decode-routing round-robin .* counts as new/);
  assert.not.match(render('session'), '--decode-routing');
});

test('the headline says what was saved, how much faster that was, and whether the answers are the same', () => {
  assert.is(
    headline(summary),
    'test: bi computed >99 % fewer prompt tokens again; follow-up TTFT p50 3.98× faster; 2/2 outputs identical.',
  );
});

test('one mode alone has a headline too', () => {
  const workload = { ...run.workload, modes: ['uni'] as const };
  const alone = summarizeRun({ ...run, workload, complete: false }, turns);
  assert.is(
    headline(alone),
    'test (incomplete): uni computed 558 of 750 prompt tokens, 307 of them again; TTFT p50 140 ms.',
  );
});

test('the whole report, line for line', () => {
  const lines = renderRun(summary, turns, 80).split('\n');
  const has = (line: string) => assert.ok(lines.includes(line), `missing: ${line}\n${lines.join('\n')}`);
  has('│ computed again      │     307 │       3 │');
  has('│ KV moved D→P        │     0 B │ 304 KiB │');
  has('│ TTFT p50, turns ≥ 2 │  179 ms │ 45.0 ms │');
  has('uni ███████████████····················▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒');
  has('    █ on P  ▓ pulled from D  · new  ▒ computed again');
  has('│ 2    │    550 │          358 │          54 │   179 ms │ 45.0 ms │');
  has('✓ outputs are identical (2 turns)');
  assert.ok(
    lines.some((line) => line.startsWith('│ again: generated_on_d │     299  40 % ███')),
    lines.join('\n'),
  );
});

test('the legend says where blocks were read from', () => {
  const legends = [
    [{ ledger_pulled_from_d: 0, ledger_pulled_from_store: 304 }, 'pulled from a store'],
    [{ ledger_pulled_from_d: 100, ledger_pulled_from_store: 204 }, 'pulled from D or a store'],
  ] as const;
  for (const [ledger, legend] of legends) {
    const changed = turns.map((one) => ({ ...one, ...(one.ledger_pulled_from_d ? ledger : {}) }));
    assert.match(renderRun(summarizeRun(run, changed), changed, 80), `▓ ${legend}  · new`);
  }
});

test('no table or bar is wider than the terminal, down to 68 columns', () => {
  for (const width of [68, 80, 120]) {
    const lines = renderRun(summary, turns, width).split('\n');
    // The headline is prose, which terminals wrap.
    for (const line of lines.slice(1)) assert.ok([...line].length <= width, line);
  }
});

test('a run without turns prints too', () => {
  assert.match(renderRun(summarizeRun(run, []), [], 80), 'test: no turn was answered.');
});

test('broken checks are marked', () => {
  const broken = createRunInfo({ checks: [{ name: 'x', ok: false, detail: 'turn 3' }] });
  assert.match(renderRun(summarizeRun(broken, turns), turns), '✗ x (turn 3)');
});

test('kept runs stand side by side, a column a mode', () => {
  const kept = { folder: '/x', run, turns, summary };
  const text = renderComparison([kept, kept]);
  assert.match(text, 'A = 2026-01-31T12-00-00-multi-turn-test (test, seed 0)');
  assert.match(text, /│ +│ +A uni │ +A bi │ +B uni │ +B bi │/);
  assert.match(text, /│ TTFT speed-up, turns ≥ 2 │ +– │ +3\.98× │ +– │ +3\.98× │/);
});

test('exports: a CSV row a turn, JSON with turns, Markdown with how it was measured', async () => {
  const kept = { folder: '/x', run, turns, summary };
  const csv = (await exportRun(kept, 'csv')).trim().split('\n');
  assert.is(csv.length, 5);
  assert.match(csv[0]!, /^mode,conversation_id,turn,/);
  assert.is((JSON.parse(await exportRun(kept, 'json')) as { turns: unknown[] }).turns.length, 4);
  const markdown = await exportRun(kept, 'markdown');
  assert.match(markdown, '| computed again | 307 | 3 |');
  assert.match(markdown, '- Command: `vllm-pd bench multi-turn`');
});

test('figures are short and keep their meaning at the edges', () => {
  assert.equal([0, 1.234, 12.34, 123.4, 1234, 12_345].map(formatMs), [
    '0 ms',
    '1.23 ms',
    '12.3 ms',
    '123 ms',
    '1,234 ms',
    '12.3 s',
  ]);
  assert.is(formatMs(null), '–');
  assert.equal([0, 1023, 1024, 5 * 1024 ** 3].map(formatBytes), ['0 B', '1,023 B', '1.00 KiB', '5.00 GiB']);
  assert.equal([0, 0.001, 0.5, 0.999, 1].map(formatPercent), ['0 %', '<1 %', '50 %', '>99 %', '100 %']);
  assert.equal([2, 0.5].map(formatSpeedup), ['2.00× faster', '2.00× slower']);
});

test('bars have their width whatever the shares', () => {
  assert.equal(
    [bar(0, 4), bar(0.5, 4), bar(0.53, 4), bar(1, 4), bar(2, 4)],
    ['    ', '██  ', '██▏ ', '████', '████'],
  );
  const thirds = ['a', 'b', 'c'].map((glyph) => ({ share: 1 / 3, glyph }));
  assert.is(stackedBar(thirds, 10), 'aaabbbbccc');
});

test('a run in which no turn was answered says so, without empty tables', () => {
  const failed = (['uni', 'bi'] as const).map((mode) => createTurn({ mode, error: 'no' }));
  const text = renderRun(summarizeRun(run, failed), failed);
  assert.match(text, 'no turn was answered');
  assert.not.match(text, 'Means by turn number');
  assert.not.match(text, 'on P');
});

test.run();
