// A chaos run as text for a terminal.
import Table from 'cli-table3';
import { formatCount } from '../bench/format.js';
import type { ChaosRun } from './chaos-bench.js';
import { faultKinds } from './fault.js';
import type { SoakReport } from './soak.js';

export function renderChaos({ soaks, seed }: ChaosRun): string {
  const total = (count: (soak: SoakReport) => number) => soaks.reduce((sum, soak) => sum + count(soak), 0);
  const headline =
    `${formatCount(total((soak) => soak.num_turns))} turns, ${formatCount(total((soak) => soak.num_faults))} faults: ` +
    `${total((soak) => soak.wrong.length)} with wrong tokens, ${total((soak) => soak.lost.length)} lost, ` +
    `${total((soak) => soak.leaks.length)} pools not whole. Seed ${seed}.`;
  return [headline, outcomeTable(soaks), faultTable(soaks)].join('\n\n');
}

function outcomeTable(soaks: readonly SoakReport[]): string {
  const head = ['', 'turns', 'faults', 'failed attempts', 'wrong', 'lost', 'leaks', 'seconds'];
  const rows = soaks.map((soak) => [
    soak.complete ? soak.name : `${soak.name} (incomplete)`,
    formatCount(soak.num_turns),
    formatCount(soak.num_faults),
    formatCount(soak.num_failed_attempts),
    formatCount(soak.wrong.length),
    formatCount(soak.lost.length),
    formatCount(soak.leaks.length),
    soak.duration_s.toFixed(1),
  ]);
  return renderTable(head, rows);
}

function faultTable(soaks: readonly SoakReport[]): string {
  const rows = faultKinds.map((kind) => [
    kind.replaceAll('_', ' '),
    ...soaks.map(({ faults }) => formatCount(faults[kind] ?? 0)),
  ]);
  return renderTable(['fault', ...soaks.map(({ name }) => name)], rows);
}

function renderTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const table = new Table({
    head: [...head],
    colAligns: head.map((_, i) => (i === 0 ? 'left' : 'right')),
    style: { head: [], border: [] },
  });
  table.push(...rows.map((row) => [...row]));
  return table.toString();
}
