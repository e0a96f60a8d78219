// The figures of a mode in the order in which every table shows them.
import { formatBytes, formatCount, formatMs, formatRate, formatShare } from './format.js';
import type { Percentiles } from './stats.js';
import { isPrefillUnknown, type ModeSummary } from './summary.js';

export interface Figure {
  readonly label: string;
  readonly value: (mode: ModeSummary) => string;
  /** False where there is nothing to show; absent = always shown. */
  readonly has?: (mode: ModeSummary) => boolean;
  /** Left out of the table that a run ends with: comparisons and reports have it. */
  readonly isDetail?: true;
}

const isPrefillKnown = (mode: ModeSummary) => !isPrefillUnknown(mode);

const figures: readonly Figure[] = [
  { label: 'turns (failed)', value: (mode) => `${mode.num_turns} (${mode.num_failed_turns})` },
  { label: 'prompt tokens', value: (mode) => formatCount(mode.num_prompt_tokens) },
  { label: 'computed', value: (mode) => formatCount(mode.num_computed_tokens), has: isPrefillKnown },
  { label: 'computed again', value: (mode) => formatCount(mode.num_recomputed_tokens), has: isPrefillKnown },
  { label: 'KV moved P→D', value: (mode) => formatBytes(mode.kv_bytes_p_to_d), has: isPrefillKnown },
  { label: 'KV moved D→P', value: (mode) => formatBytes(mode.kv_bytes_d_to_p), has: isPrefillKnown },
  {
    label: 'KV, own stores',
    value: (mode) => formatBytes(mode.kv_bytes_dedicated ?? 0),
    has: (mode) => (mode.kv_bytes_dedicated ?? 0) > 0,
  },
  {
    label: 'KV, shared store',
    value: (mode) => formatBytes(mode.kv_bytes_shared ?? 0),
    has: (mode) => (mode.kv_bytes_shared ?? 0) > 0,
  },
  {
    label: 'KV by two hops',
    value: (mode) => formatBytes(mode.two_hop_bytes ?? 0),
    has: (mode) => (mode.kv_bytes_shared ?? 0) + (mode.two_hop_bytes ?? 0) > 0,
  },
  {
    label: 'regret, mean',
    value: (mode) => formatMs(mode.pull_regret_ms?.mean ?? null),
    has: (mode) => mode.pull_regret_ms !== undefined,
  },
  {
    label: 'regret, p99',
    value: (mode) => formatMs(mode.pull_regret_ms?.p99 ?? null),
    // Where every choice was right there is no worst one.
    has: (mode) => (mode.pull_regret_ms?.p99 ?? 0) > 0,
  },
  {
    label: 'sent late by, p99',
    value: (mode) => formatMs(mode.schedule_lag_ms?.p99 ?? null),
    has: (mode) => mode.schedule_lag_ms !== undefined,
  },
  {
    label: 'cached prompt tokens',
    value: (mode) => formatShare(mode.cached_token_ratio),
    has: isPrefillKnown,
    isDetail: true,
  },
  {
    label: 'good turns',
    value: ({ goodput }) =>
      goodput ? `${formatShare(goodput.good_ratio)}, ${formatRate(goodput.request_goodput)}/s` : '–',
    has: (mode) => mode.goodput !== undefined,
  },
  { label: 'TTFT mean', value: (mode) => formatMs(mode.ttft_ms.mean) },
  { label: 'TTFT p50', value: (mode) => formatMs(mode.ttft_ms.p50) },
  { label: 'TTFT p90', value: (mode) => formatMs(mode.ttft_ms.p90) },
  { label: 'TTFT p99', value: (mode) => formatMs(mode.ttft_ms.p99) },
  { label: 'TTFT p50, turns ≥ 2', value: (mode) => formatMs(mode.follow_up.ttft_ms.p50) },
  { label: 'TPOT p50', value: (mode) => formatMs(mode.tpot_ms.p50) },
  { label: 'E2EL p50', value: (mode) => formatMs(mode.e2el_ms.p50) },
  ...(['mean', 'p50', 'p99'] as const).map(
    (which): Figure => ({
      label: `ITL ${which}`,
      value: (mode) => formatMs(mode.itl_ms?.[which] ?? null),
      has: (mode) => mode.itl_ms !== undefined,
      isDetail: true,
    }),
  ),
  { label: 'E2EL per token p50', value: (mode) => formatMs(mode.normalized_tpot_ms.p50), isDetail: true },
  { label: 'TTFT std', value: (mode) => formatMs(mode.ttft_ms.std), isDetail: true },
  { label: 'TPOT std', value: (mode) => formatMs(mode.tpot_ms.std), isDetail: true },
  {
    label: 'turns per second',
    value: ({ throughput }) => formatRate(throughput.request_throughput),
    isDetail: true,
  },
  {
    label: 'output tokens per second',
    value: ({ throughput }) => formatRate(throughput.output_throughput),
    isDetail: true,
  },
  {
    label: 'all tokens per second',
    value: ({ throughput }) => formatRate(throughput.total_token_throughput),
    isDetail: true,
  },
];

const timeLabels = { ttft_ms: 'TTFT', tpot_ms: 'TPOT', itl_ms: 'ITL', e2el_ms: 'E2EL' } as const;

/** Percentiles that somebody asked for, unless they are shown anyway. */
function askedFor(percentiles: Percentiles): readonly Figure[] {
  const shown = new Set(figures.map(({ label }) => label));
  return [...new Set(percentiles)].flatMap((p) =>
    (Object.keys(timeLabels) as (keyof typeof timeLabels)[]).flatMap((metric) => {
      const label = `${timeLabels[metric]} p${p}`;
      const value = (mode: ModeSummary) => formatMs(mode[metric]?.[`p${p}`] ?? null);
      const has = (mode: ModeSummary) => mode[metric] !== undefined;
      return shown.has(label) ? [] : [{ label, value, has }];
    }),
  );
}

/** What comparisons and reports have: those of which at least one mode has something. */
export function allFigures(modes: readonly ModeSummary[], percentiles: Percentiles = []): readonly Figure[] {
  return [...figures, ...askedFor(percentiles)].filter(({ has }) => !has || modes.some(has));
}

/** What a run ends with. */
export function figuresOf(modes: readonly ModeSummary[], percentiles: Percentiles = []): readonly Figure[] {
  return allFigures(modes, percentiles).filter(({ isDetail }) => !isDetail);
}
