// A run's turns as text that other programs read.
import { stringify } from 'csv-stringify/sync';
import { regretOf } from './regret.js';
import type { TurnRecord } from './turn-record.js';

/** A turn with what follows from it and the others of its run. */
export interface ExportedTurn extends TurnRecord {
  /** Milliseconds that pulling (or computing) cost beyond the better of both; null for turns without a choice. */
  readonly pull_regret_ms: number | null;
}

export function exportedTurns(turns: readonly TurnRecord[]): ExportedTurn[] {
  const regrets = new Map<TurnRecord, number>();
  for (const mode of new Set(turns.map((turn) => turn.mode))) {
    const ofMode = turns.filter((turn) => turn.mode === mode && !turn.warmup);
    for (const [turn, ms] of regretOf(ofMode)) regrets.set(turn, Math.round(ms * 1000) / 1000);
  }
  return turns.map((turn) => ({ ...turn, pull_regret_ms: regrets.get(turn) ?? null }));
}

/** One row a turn and mode, with a header of the column names; null is an empty cell. */
export function turnsToCsv(turns: readonly TurnRecord[]): string {
  return stringify(exportedTurns(turns), {
    header: turns.length > 0,
    cast: { boolean: (value) => String(value) },
  });
}

export function turnsToJsonLines(turns: readonly TurnRecord[]): string {
  return turns.map((turn) => `${JSON.stringify(turn)}\n`).join('');
}
