// The figures of a mode in the order in which every table shows them.
import { formatBytes, formatCount, formatMs } from './format.js';
import type { ModeSummary } from './summary.js';

export interface Figure {
  readonly label: string;
  readonly value: (mode: ModeSummary) => string;
  /** False where there is nothing to show; absent = always shown. */
  readonly has?: (mode: ModeSummary) => boolean;
}

export const modeFigures: readonly Figure[] = [
  { label: 'turns (failed)', value: (mode) => `${mode.num_turns} (${mode.num_failed_turns})` },
  { label: 'prompt tokens', value: (mode) => formatCount(mode.num_prompt_tokens) },
  { label: 'computed', value: (mode) => formatCount(mode.num_computed_tokens) },
  { label: 'computed again', value: (mode) => formatCount(mode.num_recomputed_tokens) },
  { label: 'KV moved P→D', value: (mode) => formatBytes(mode.kv_bytes_p_to_d) },
  { label: 'KV moved D→P', value: (mode) => formatBytes(mode.kv_bytes_d_to_p) },
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
    label: 'sent late by, p99',
    value: (mode) => formatMs(mode.schedule_lag_ms?.p99 ?? null),
    has: (mode) => mode.schedule_lag_ms !== undefined,
  },
  { label: 'TTFT mean', value: (mode) => formatMs(mode.ttft_ms.mean) },
  { label: 'TTFT p50', value: (mode) => formatMs(mode.ttft_ms.p50) },
  { label: 'TTFT p90', value: (mode) => formatMs(mode.ttft_ms.p90) },
  { label: 'TTFT p99', value: (mode) => formatMs(mode.ttft_ms.p99) },
  { label: 'TTFT p50, turns ≥ 2', value: (mode) => formatMs(mode.follow_up.ttft_ms.p50) },
  { label: 'TPOT p50', value: (mode) => formatMs(mode.tpot_ms.p50) },
  { label: 'E2EL p50', value: (mode) => formatMs(mode.e2el_ms.p50) },
];

/** Those of which at least one mode has something. */
export function figuresOf(modes: readonly ModeSummary[]): readonly Figure[] {
  return modeFigures.filter(({ has }) => !has || modes.some(has));
}
