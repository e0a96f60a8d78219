// Rows as text: a table for a terminal, CSV and JSON lines for other programs.
import { stringify } from 'csv-stringify/sync';
import { bar } from '../bench/format.js';
import { renderTable } from '../bench/render-table.js';
import type { KernelRow } from './kernel-row.js';
import { formatRate } from './target.js';

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
  const isAsked = rows.some(({ asked }) => asked !== null);
  const head = [family, 'threads', 'measured', 'limit', 'of limit', '', ...(isAsked ? ['asked'] : [])];
  const cells = rows.map((row) => [
    row.name,
    String(row.threads),
    `${formatRate(row.value)} ${row.unit}`,
    `${row.limit} ${formatRate(row.limit_value)}`,
    row.ratio.toFixed(2),
    bar(row.ratio, 10),
    ...(isAsked ? [row.asked === null ? '' : `${row.asked} ${row.is_reached ? '✓' : '✗'}`] : []),
  ]);
  return [renderTable(head, cells), ...rows.flatMap(reachedLine)].join('\n');
}

/** What stands in no column: times, each and in addition. */
function reachedLine({ family, name, reached, asked, limit }: KernelRow): string[] {
  if (!reached?.includes('ms')) return [];
  const beyond = reached.endsWith('more') ? ` than ${limit} takes` : ' each';
  return [`${family}/${name}: ${reached}${beyond} (p50); asked ${asked}`];
}

export function rowsToCsv(rows: readonly KernelRow[]): string {
  // Otherwise false would be as empty as null.
  return stringify([...rows], { header: rows.length > 0, cast: { boolean: String } });
}

export function rowsToJsonLines(rows: readonly KernelRow[]): string {
  return rows.map((row) => `${JSON.stringify(row)}\n`).join('');
}
