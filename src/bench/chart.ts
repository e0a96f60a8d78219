// A run as a picture, for files and pages: where prompts' KV came from, and how long first tokens took. Pure.
import { BarChart, LineChart, ScatterChart } from 'echarts/charts';
import { GridComponent, LegendComponent, TitleComponent } from 'echarts/components';
import { init, use } from 'echarts/core';
import { SVGRenderer } from 'echarts/renderers';
import { colours, type Panel } from './chart-panel.js';
import { sourcesPanel } from './chart-sources.js';
import { ttftPanel } from './chart-ttft.js';
import type { RunSummary } from './summary.js';
import { headline } from './table.js';
import type { TurnRecord } from './turn-record.js';

use([BarChart, LineChart, ScatterChart, GridComponent, LegendComponent, TitleComponent, SVGRenderer]);

/** In pixels, as all lengths here. */
const size = { width: 1000, height: 410 };
// Names of workloads may be long.
const headlineStyle = { fontSize: 13, color: colours.ink, width: size.width - 32, overflow: 'truncate' };

/** An SVG document. The same turns give the same bytes. */
export function renderChart(summary: RunSummary, turns: readonly TurnRecord[]): string {
  const chart = init(null, null, { renderer: 'svg', ssr: true, ...size });
  try {
    const panels = [
      { left: 16, width: 440, panel: sourcesPanel(summary, turns, 0) },
      { left: 556, width: 364, panel: ttftPanel(summary, turns, 1) },
    ];
    chart.setOption({
      animation: false,
      backgroundColor: '#ffffff',
      textStyle: { color: colours.ink, fontFamily: 'system-ui, sans-serif' },
      title: [
        { text: headline(summary), left: 16, top: 10, textStyle: headlineStyle },
        ...panels.map(({ left, panel }) => panelTitle(panel, left)),
      ],
      legend: panels.map(({ left, panel }) => panelLegend(panel, left)),
      grid: panels.map(({ left, width }) => ({ left: left + 52, width, top: 96, height: 262 })),
      xAxis: panels.flatMap(({ panel }) => panel.xAxes),
      yAxis: panels.map(({ panel }) => panel.yAxis),
      series: panels.flatMap(({ panel }) => panel.series),
    });
    return standingStill(chart.getZr().painter);
  } finally {
    chart.dispose();
  }
}

function panelTitle({ title }: Panel, left: number) {
  return {
    text: title,
    left,
    top: 36,
    textStyle: { fontSize: 12, fontWeight: 'normal', color: colours.ink },
  };
}

function panelLegend({ legend }: Panel, left: number) {
  return {
    data: [...legend],
    left,
    top: 56,
    icon: 'roundRect',
    itemWidth: 12,
    itemHeight: 12,
    textStyle: { color: colours.ink },
    selectedMode: false,
  };
}

interface SvgPainter {
  renderToString(options: { cssEmphasis: boolean }): string;
}

/** Without what only a page with scripts would use, and with names that do not count the charts of this process. */
function standingStill(painter: unknown): string {
  const svg = (painter as SvgPainter).renderToString({ cssEmphasis: false });
  return `${svg.replaceAll(/ ecmeta_\w+="[^"]*"/g, '').replaceAll(/\bzr\d+-c/g, 'clip-')}\n`;
}
