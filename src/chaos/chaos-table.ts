// A chaos run as text for a terminal.
import { formatCount } from '../bench/format.js';
import { renderTable } from '../bench/render-table.js';
import type { ChaosRun } from './chaos-run.js';
import { summarizeChaos } from './chaos-summary.js';
import { isStoreFault } from './fault.js';
import type { SoakReport } from './soak.js';

export function renderChaos(run: ChaosRun): string {
  const { num_turns, num_faults, num_wrong, num_lost, num_leaks } = summarizeChaos(run);
  const headline =
    `${formatCount(num_turns)} turns, ${formatCount(num_faults)} faults: ${num_wrong} with wrong tokens, ` +
    `${num_lost} lost, ${num_leaks} pools not whole. Seed ${run.seed}.`;
  return [headline, outcomeTable(run.soaks), faultTable(run)].join('\n\n');
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

/** Those that were in play: a store's only where there was one. */
function faultTable({ soaks, fault_kinds, store }: ChaosRun): string {
  const inPlay = fault_kinds.filter((kind) => store !== 'none' || !isStoreFault(kind));
  const rows = inPlay.map((kind) => [
    kind.replaceAll('_', ' '),
    ...soaks.map(({ faults }) => formatCount(faults[kind] ?? 0)),
  ]);
  return renderTable(['fault', ...soaks.map(({ name }) => name)], rows);
}
