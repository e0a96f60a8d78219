// A kept run as a report in one file.
import type { KvTransferMode } from '../config.js';
import { ledgerBins } from '../wire.js';
import { exportedTurns, turnsToCsv } from './export-turns.js';
import { allFigures } from './figures.js';
import { formatCount } from './format.js';
import type { KeptRun } from './results.js';
import type { ModeSummary } from './summary.js';
import { headline, reuseLine } from './table.js';

export type ExportFormat = 'csv' | 'json' | 'markdown' | 'svg';

/** csv: the turns. json: summary and turns. markdown: the figures with how they were measured. svg: a picture. */
export async function exportRun({ summary, turns, run }: KeptRun, format: ExportFormat): Promise<string> {
  switch (format) {
    case 'csv':
      return turnsToCsv(turns);
    case 'json':
      return `${JSON.stringify({ ...summary, turns: exportedTurns(turns) }, null, 2)}\n`;
    case 'markdown':
      return markdown({ summary, run });
    case 'svg': {
      // Loading a chart library takes longer than all else.
      const { renderChart } = await import('./chart.js');
      return renderChart(summary, turns);
    }
  }
}

function markdown({ summary, run }: Pick<KeptRun, 'summary' | 'run'>): string {
  const names = Object.keys(summary.modes) as KvTransferMode[];
  const row = (label: string, value: (mode: ModeSummary) => string) => [
    label,
    ...names.map((name) => value(summary.modes[name]!)),
  ];
  const figures = allFigures(
    names.map((name) => summary.modes[name]!),
    run.metric_percentiles,
  ).map(({ label, value }) => row(label, value));
  const ledger = ledgerBins
    .filter((bin) => names.some((name) => summary.modes[name]!.ledger[bin] > 0))
    .map((bin) => row(bin, (mode) => formatCount(mode.ledger[bin])));
  const commit = run.commit ? `${run.commit}${run.dirty ? ' with changes' : ''}` : 'not known';
  const memory = `${Math.round(run.host.memory_bytes / 1024 ** 3)} GiB`;
  return [
    `# ${run.id}`,
    '',
    headline(summary),
    '',
    ...(summary.comparison?.reuse ? [reuseLine(summary), ''] : []),
    markdownTable(['', ...names], figures),
    '',
    markdownTable(['prompt tokens', ...names], ledger),
    '',
    `- Command: \`${run.command}\``,
    `- Started: ${run.started_at}, ${run.duration_s} s`,
    `- Workload: ${run.workload.name}, seed ${run.workload.seed}, sha256 ${run.workload.sha256}`,
    `- Host: ${run.host.cpu}, ${run.host.cores} cores, ${memory}, ${run.host.os}, Node ${run.host.node}`,
    `- vllm-pd ${run.version}, commit ${commit}`,
    ...run.checks.map(({ name, ok, detail }) => `- ${ok ? 'Holds' : 'BROKEN'}: ${name} (${detail})`),
    '',
  ].join('\n');
}

function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const rule = head.map((_, i) => (i === 0 ? '---' : '---:'));
  return [line(head), line(rule), ...rows.map(line)].join('\n');
}
