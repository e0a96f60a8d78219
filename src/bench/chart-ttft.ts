// The panel of times: first tokens by the number of the turn, or by the length of the prompt where lengths differ much.
import type { KvTransferMode } from '../config.js';
import {
  answeredTurns,
  colours,
  countTurnNumbers,
  modeColours,
  type Panel,
  turnAxis,
  turnsOf,
  valueAxis,
} from './chart-panel.js';
import { formatMs } from './format.js';
import { followUps, hasManyLengths } from './length-table.js';
import { summarize } from './stats.js';
import type { RunSummary } from './summary.js';
import type { TurnRecord } from './turn-record.js';

/** Expects two x axes before its own. */
export function ttftPanel(summary: RunSummary, turns: readonly TurnRecord[], gridIndex: number): Panel {
  const modes = Object.keys(summary.modes) as KvTransferMode[];
  const panel = hasManyLengths(turns) ? byLength(modes, turns, gridIndex) : byTurn(modes, turns, gridIndex);
  return {
    ...panel,
    legend: modes,
    yAxis: valueAxis(gridIndex, (value) => (value === 0 ? '0' : formatMs(value))),
  };
}

type Axes = Pick<Panel, 'title' | 'xAxes' | 'series'>;

function byTurn(modes: readonly KvTransferMode[], turns: readonly TurnRecord[], gridIndex: number): Axes {
  const answered = answeredTurns(turns);
  const numTurns = countTurnNumbers(answered);
  return {
    title: 'Time to first token: every turn, and the median',
    xAxes: [turnAxis(gridIndex, numTurns)],
    series: modes.flatMap((mode) => [
      line(
        mode,
        Array.from({ length: numTurns }, (_, i) => {
          return summarize(turnsOf(answered, mode, i + 1).map(({ ttft_ms }) => ttft_ms)).p50;
        }),
      ),
      points(
        mode,
        answered.filter((turn) => turn.mode === mode).map(({ turn, ttft_ms }) => [turn - 1, ttft_ms]),
      ),
    ]),
  };
}

function byLength(modes: readonly KvTransferMode[], turns: readonly TurnRecord[], gridIndex: number): Axes {
  const lengths = {
    ...valueAxis(gridIndex, (value) => value.toLocaleString('en-US')),
    name: 'prompt tokens',
  };
  return {
    title: 'Time to first token of turns ≥ 2, by length of the prompt',
    xAxes: [{ ...lengths, nameLocation: 'middle', nameGap: 28, nameTextStyle: { color: colours.ink } }],
    series: modes.flatMap((mode) => {
      const places = followUps(turns)
        .filter((turn) => turn.mode === mode)
        .map(({ num_prompt_tokens, ttft_ms }) => [num_prompt_tokens, ttft_ms ?? 0] as const)
        .sort(([a], [b]) => a - b);
      return [line(mode, places), points(mode, places)];
    }),
  };
}

const axes = { xAxisIndex: 2, yAxisIndex: 1 };

function line(mode: KvTransferMode, data: readonly unknown[]) {
  const colour = { color: modeColours[mode] };
  return {
    ...axes,
    name: mode,
    type: 'line',
    symbol: 'none',
    lineStyle: { width: 2.5 },
    itemStyle: colour,
    data,
  };
}

function points(mode: KvTransferMode, data: readonly unknown[]) {
  const itemStyle = { color: modeColours[mode], opacity: 0.45 };
  return { ...axes, name: mode, type: 'scatter', symbolSize: 6, itemStyle, data };
}
