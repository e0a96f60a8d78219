// Rows as text: a table for a terminal, CSV and JSON lines for other programs.
import { stringify } from 'csv-stringify/sync';
import { bar, formatMs } from '../bench/format.js';
import { renderTable } from '../bench/render-table.js';
import type { KernelRow } from './kernel-row.js';
import { directAnswer } from './proxy-rows.js';

/** One table a family, in the order of the rows. */
export function renderKernelRows(rows: readonly KernelRow[]): string {
  const families = [...new Set(rows.map(({ family }) => family))];
  return families
    .map((family) =>
      renderFamily(
        family,
        rows.filter((row) => row.family === family),
      ),
    )
    .join('\n\n');
}

function renderFamily(family: string, rows: readonly KernelRow[]): string {
  const head = [family, 'threads', 'measured', 'limit', 'of limit', ''];
  const cells = rows.map((row) => [
    row.name,
    String(row.threads),
    `${formatRate(row.value)} ${row.unit}`,
    `${row.limit} ${formatRate(row.limit_value)}`,
    row.ratio.toFixed(2),
    bar(row.ratio, 10),
  ]);
  return [
    renderTable(head, cells),
    ...rows.filter(({ limit }) => limit === directAnswer).map(addedTime),
  ].join('\n');
}

function addedTime({ family, name, ms_p50, limit, limit_ms_p50 }: KernelRow): string {
  return `${family}/${name}: ${formatMs(Math.max(0, ms_p50 - limit_ms_p50))} more than ${limit} takes (p50)`;
}

/** Three significant digits: `0.412`, `23.1`, `1,230`, `18.2 M`. */
function formatRate(value: number): string {
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3)).toLocaleString('en-US')} M`;
  return Number(value.toPrecision(3)).toLocaleString('en-US', { maximumFractionDigits: 6 });
}

export function rowsToCsv(rows: readonly KernelRow[]): string {
  return stringify([...rows], { header: rows.length > 0 });
}

export function rowsToJsonLines(rows: readonly KernelRow[]): string {
  return rows.map((row) => `${JSON.stringify(row)}\n`).join('');
}
