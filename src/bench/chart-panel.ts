// What the panels of a chart share: their shape, colours and axes, in ECharts' terms.
import type { KvTransferMode } from '../config.js';
import type { TurnRecord } from './turn-record.js';

export interface Panel {
  readonly title: string;
  readonly legend: readonly string[];
  readonly xAxes: readonly object[];
  readonly yAxis: object;
  readonly series: readonly object[];
}

export const colours = { ink: '#24292f', faint: '#d8dee4' } as const;

// Okabe and Ito's palette: colour-blind readers can tell these apart.
export const modeColours: Readonly<Record<KvTransferMode, string>> = { uni: '#d55e00', bi: '#009e73' };

export function valueAxis(gridIndex: number, formatter: (value: number) => string) {
  const splitLine = { lineStyle: { color: colours.faint } };
  return { type: 'value', gridIndex, min: 0, splitLine, axisLabel: { color: colours.ink, formatter } };
}

/** `offset` in pixels below the panel. */
export function turnAxis(gridIndex: number, numTurns: number, offset = 0) {
  return {
    type: 'category',
    gridIndex,
    offset,
    position: 'bottom',
    data: Array.from({ length: numTurns }, (_, i) => `turn ${i + 1}`),
    axisTick: { show: false },
    axisLine: { show: offset === 0, lineStyle: { color: colours.faint } },
    axisLabel: { color: colours.ink },
  };
}

/** Measured turns that were answered. */
export function answeredTurns(turns: readonly TurnRecord[]): TurnRecord[] {
  return turns.filter(({ warmup, error }) => !warmup && error === null);
}

/** 1 where there are none, so that axes are never empty. */
export function countTurnNumbers(answered: readonly TurnRecord[]): number {
  return Math.max(1, ...answered.map(({ turn }) => turn));
}

export function turnsOf(answered: readonly TurnRecord[], mode: KvTransferMode, turn: number): TurnRecord[] {
  return answered.filter((record) => record.mode === mode && record.turn === turn);
}
