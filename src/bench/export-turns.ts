// A run's turns as text that other programs read.
import { stringify } from 'csv-stringify/sync';
import type { TurnRecord } from './turn-record.js';

/** One row a turn and mode, with a header of the column names; null is an empty cell. */
export function turnsToCsv(turns: readonly TurnRecord[]): string {
  return stringify([...turns], {
    header: turns.length > 0,
    cast: { boolean: (value) => String(value) },
  });
}

export function turnsToJsonLines(turns: readonly TurnRecord[]): string {
  return turns.map((turn) => `${JSON.stringify(turn)}\n`).join('');
}
