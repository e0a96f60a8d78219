// What was taken of a dataset and what was left out, as lines under a run's tables.
import { formatCount } from '../format.js';
import type { DatasetReport } from './selection.js';

export function datasetLines(report: DatasetReport | undefined): string[] {
  if (!report) return [];
  const { filetype, num_rows, complete, num_conversations, num_played_conversations, scale } = report;
  const rest = complete ? '' : '; the rest of the file was not read';
  const scaled = scale === 1 ? '' : `, lengths × ${scale}`;
  const of = complete ? `of ${formatCount(num_conversations)} ` : '';
  return [
    `· ${filetype}: ${formatCount(num_played_conversations)} ${of}conversations in ${formatCount(num_rows)} rows${scaled}${rest}`,
    ...Object.entries(report.skipped).map(([what, count]) => `· left out: ${formatCount(count)} ${what}`),
    ...report.notes.map((note) => `· ${note}`),
  ];
}
