// A run as a picture: where the KV of each turn's prompt came from, and how long its first token took. Pure.
import { BarChart, LineChart, ScatterChart } from 'echarts/charts';
import { GridComponent, LegendComponent, TitleComponent } from 'echarts/components';
import { init, use } from 'echarts/core';
import { SVGRenderer } from 'echarts/renderers';
import type { KvTransferMode } from '../config.js';
import { type LedgerBin, recomputedBins } from '../wire.js';
import { formatMs } from './format.js';
import { summarize } from './stats.js';
import type { RunSummary } from './summary.js';
import { headline } from './table.js';
import type { TurnRecord } from './turn-record.js';

use([BarChart, LineChart, ScatterChart, GridComponent, LegendComponent, TitleComponent, SVGRenderer]);

const size = { width: 1000, height: 410 };
const ink = '#24292f';
const faint = '#d8dee4';
// Names of workloads may be long.
const headlineStyle = { fontSize: 13, color: ink, width: size.width - 32, overflow: 'truncate' };

// Okabe and Ito's palette: colour-blind readers can tell these apart.
const modeColours: Readonly<Record<KvTransferMode, string>> = { uni: '#d55e00', bi: '#009e73' };

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

/** An SVG document. The same turns give the same bytes. */
export function renderChart(summary: RunSummary, turns: readonly TurnRecord[]): string {
  const modes = Object.keys(summary.modes) as KvTransferMode[];
  const answered = turns.filter(({ warmup, error }) => !warmup && error === null);
  const numTurns = Math.max(1, ...answered.map(({ turn }) => turn));
  const chart = init(null, null, { renderer: 'svg', ssr: true, ...size });
  try {
    chart.setOption({
      animation: false,
      backgroundColor: '#ffffff',
      textStyle: { color: ink, fontFamily: 'system-ui, sans-serif' },
      title: [
        { text: headline(summary), left: 16, top: 10, textStyle: headlineStyle },
        panelTitle('Prompt tokens of a turn, by where their KV came from', 16),
        panelTitle('Time to first token: every turn, and the median', 556),
      ],
      legend: [
        { ...legend, left: 16, data: sources.map(({ name }) => name) },
        { ...legend, left: 556, data: modes },
      ],
      grid: [
        { left: 64, top: 96, width: 440, height: 262 },
        { left: 612, top: 96, width: 364, height: 262 },
      ],
      xAxis: [...sourceAxes(modes, numTurns), turnAxis(numTurns, 1)],
      yAxis: [
        valueAxis(0, (value) => value.toLocaleString('en-US')),
        valueAxis(1, (value) => (value === 0 ? '0' : formatMs(value))),
      ],
      series: [...sourceSeries(modes, answered, numTurns), ...ttftSeries(modes, answered, numTurns)],
    });
    return standingStill(chart.getZr().painter);
  } finally {
    chart.dispose();
  }
}

interface SvgPainter {
  renderToString(options: { cssEmphasis: boolean }): string;
}

/** Without what only a page with scripts would use, and with names that do not count the charts of this process. */
function standingStill(painter: unknown): string {
  const svg = (painter as SvgPainter).renderToString({ cssEmphasis: false });
  return `${svg.replaceAll(/ ecmeta_\w+="[^"]*"/g, '').replaceAll(/\bzr\d+-c/g, 'clip-')}\n`;
}

const legend = {
  selectedMode: false,
  top: 56,
  icon: 'roundRect',
  itemWidth: 12,
  itemHeight: 12,
  textStyle: { color: ink },
};

function panelTitle(text: string, left: number) {
  return { text, left, top: 36, textStyle: { fontSize: 12, fontWeight: 'normal', color: ink } };
}

function valueAxis(gridIndex: number, formatter: (value: number) => string) {
  const splitLine = { lineStyle: { color: faint } };
  return { type: 'value', gridIndex, min: 0, splitLine, axisLabel: { color: ink, formatter } };
}

function turnAxis(numTurns: number, gridIndex: number, offset = 0) {
  return {
    type: 'category',
    gridIndex,
    offset,
    position: 'bottom',
    data: Array.from({ length: numTurns }, (_, i) => `turn ${i + 1}`),
    axisTick: { show: false },
    axisLine: { show: offset === 0, lineStyle: { color: faint } },
    axisLabel: { color: ink },
  };
}

/** One bar a mode and turn, the modes' names below each; under them the turns. */
function sourceAxes(modes: readonly KvTransferMode[], numTurns: number) {
  const bars = Array.from({ length: numTurns }, () => modes).flat();
  return [
    { ...turnAxis(numTurns, 0), data: bars, axisLabel: { color: ink, fontSize: 11 } },
    turnAxis(numTurns, 0, 22),
  ];
}

function sourceSeries(modes: readonly KvTransferMode[], answered: readonly TurnRecord[], numTurns: number) {
  return sources.map(({ name, colour, bins }) => ({
    name,
    type: 'bar',
    stack: 'sources',
    barCategoryGap: '24%',
    itemStyle: { color: colour },
    data: Array.from({ length: numTurns }, (_, i) =>
      modes.map((mode) => {
        const tokens = turnsOf(answered, mode, i + 1).map((turn) =>
          bins.reduce((sum, bin) => sum + turn[`ledger_${bin}`], 0),
        );
        return summarize(tokens).mean;
      }),
    ).flat(),
  }));
}

function ttftSeries(modes: readonly KvTransferMode[], answered: readonly TurnRecord[], numTurns: number) {
  const place = { xAxisIndex: 2, yAxisIndex: 1 };
  return modes.flatMap((mode) => [
    {
      ...place,
      name: mode,
      type: 'line',
      symbol: 'none',
      lineStyle: { width: 2.5 },
      itemStyle: { color: modeColours[mode] },
      data: Array.from({ length: numTurns }, (_, i) => {
        return summarize(turnsOf(answered, mode, i + 1).map(({ ttft_ms }) => ttft_ms)).p50;
      }),
    },
    {
      ...place,
      name: mode,
      type: 'scatter',
      symbolSize: 6,
      itemStyle: { color: modeColours[mode], opacity: 0.45 },
      data: answered.filter((turn) => turn.mode === mode).map(({ turn, ttft_ms }) => [turn - 1, ttft_ms]),
    },
  ]);
}

function turnsOf(answered: readonly TurnRecord[], mode: KvTransferMode, turn: number): TurnRecord[] {
  return answered.filter((record) => record.mode === mode && record.turn === turn);
}
