// The panel of tokens: a bar for each mode and turn, stacked by where the KV of its prompt came from.
import type { KvTransferMode } from '../config.js';
import { type LedgerBin, recomputedBins } from '../wire.js';
import {
  answeredTurns,
  colours,
  countTurnNumbers,
  type Panel,
  turnAxis,
  turnsOf,
  valueAxis,
} from './chart-panel.js';
import { summarize } from './stats.js';
import type { RunSummary } from './summary.js';
import type { TurnRecord } from './turn-record.js';

/** From below: what cost nothing, what was read, what had to be computed, what was computed again. */
const sources: readonly {
  readonly name: string;
  readonly colour: string;
  readonly bins: readonly LedgerBin[];
}[] = [
  { name: 'on P', colour: '#0072b2', bins: ['local_hit'] },
  { name: 'pulled', colour: '#009e73', bins: ['pulled_from_d', 'pulled_from_store'] },
  { name: 'new', colour: '#c8c8c8', bins: ['new'] },
  { name: 'computed again', colour: '#d55e00', bins: recomputedBins },
];

/** Uses two x axes: the modes' names below the bars, the turns below these. */
export function sourcesPanel(summary: RunSummary, turns: readonly TurnRecord[], gridIndex: number): Panel {
  const modes = Object.keys(summary.modes) as KvTransferMode[];
  const answered = answeredTurns(turns);
  const numTurns = countTurnNumbers(answered);
  const bars = Array.from({ length: numTurns }, (_, i) =>
    modes.map((mode) => ({ mode, turn: i + 1 })),
  ).flat();
  return {
    title: 'Prompt tokens of a turn, by where their KV came from',
    legend: sources.map(({ name }) => name),
    xAxes: [
      {
        ...turnAxis(gridIndex, numTurns),
        data: bars.map(({ mode }) => mode),
        axisLabel: { color: colours.ink, fontSize: 11 },
      },
      turnAxis(gridIndex, numTurns, 22),
    ],
    yAxis: valueAxis(gridIndex, (value) => value.toLocaleString('en-US')),
    series: sources.map(({ name, colour, bins }) => ({
      name,
      type: 'bar',
      stack: 'sources',
      barCategoryGap: '24%',
      itemStyle: { color: colour },
      data: bars.map(({ mode, turn }) => meanTokens(turnsOf(answered, mode, turn), bins)),
    })),
  };
}

function meanTokens(turns: readonly TurnRecord[], bins: readonly LedgerBin[]): number | null {
  return summarize(turns.map((turn) => bins.reduce((sum, bin) => sum + turn[`ledger_${bin}`], 0))).mean;
}
