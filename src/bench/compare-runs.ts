// Kept runs side by side: one column per run and mode.
import type { KvTransferMode } from '../config.js';
import { allFigures } from './figures.js';
import { renderTable } from './render-table.js';
import type { KeptRun } from './results.js';
import type { Comparison, ModeSummary } from './summary.js';

interface Column {
  readonly title: string;
  readonly mode: ModeSummary;
  readonly comparison: Comparison | null;
}

export function renderComparison(runs: readonly KeptRun[]): string {
  const columns = runs.flatMap(({ summary }, i) =>
    (Object.entries(summary.modes) as [KvTransferMode, ModeSummary][]).map(
      ([name, mode]): Column => ({
        title: `${letter(i)} ${name}`,
        mode,
        // Said once a run, beside the mode that it speaks of.
        comparison: name === 'bi' ? summary.comparison : null,
      }),
    ),
  );
  const row = (label: string, value: (column: Column) => string) => [label, ...columns.map(value)];
  const speedup = (value: number | null | undefined) => (value ? `${value.toFixed(2)}×` : '–');
  const rows = [
    ...allFigures(
      columns.map(({ mode }) => mode),
      runs.flatMap(({ run }) => run.metric_percentiles ?? []),
    ).map(({ label, value }) => row(label, ({ mode }) => value(mode))),
    row('TTFT speed-up, turns ≥ 2', ({ comparison }) => speedup(comparison?.ttft_speedup_p50)),
    row('reuse efficiency', ({ comparison }) => comparison?.reuse?.reuse_efficiency?.toFixed(3) ?? '–'),
    row('identical outputs', ({ comparison }) =>
      comparison ? `${comparison.num_identical_outputs}/${comparison.num_turns}` : '–',
    ),
  ];
  const legend = runs.map(({ run }, i) => `${letter(i)} = ${describeRun(run)}`);
  return [...legend, '', renderTable(['', ...columns.map(({ title }) => title)], rows)].join('\n');
}

function describeRun(run: KeptRun['run']): string {
  const commit = run.commit ? `, commit ${run.commit.slice(0, 10)}${run.dirty ? ' with changes' : ''}` : '';
  const state = run.complete ? '' : ', incomplete';
  return `${run.id} (${run.workload.name}, seed ${run.workload.seed}${commit}${state})`;
}

/** A, B, …, Z, AA, … */
function letter(i: number): string {
  const rest = Math.floor(i / 26);
  return (rest > 0 ? letter(rest - 1) : '') + String.fromCharCode(65 + (i % 26));
}
