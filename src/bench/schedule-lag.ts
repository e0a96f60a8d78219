// How well an open loop kept to its plan: a load that arrives late is not the load that was asked for.
import { formatMs } from './format.js';
import { type Summary, summarize } from './stats.js';
import type { TurnRecord } from './turn-record.js';

/** AIPerf's limit for the 99th percentile. */
const degradedMs = 500;

export interface ScheduleSummary {
  readonly schedule_lag_ms: Summary;
  readonly degraded: boolean;
}

/** Empty in a closed loop, which has no plan. */
export function scheduleSummary(turns: readonly TurnRecord[]): ScheduleSummary | Record<string, never> {
  const lags = turns.flatMap(({ planned_start_ms: planned, start_time_ms: sent }) =>
    planned == null ? [] : [Math.max(0, sent - planned)],
  );
  if (lags.length === 0) return {};
  const lag = summarize(lags);
  return { schedule_lag_ms: lag, degraded: lag.p99! > degradedMs };
}

/** What has to be said under the tables. */
export function scheduleLines(
  modes: Readonly<Record<string, { readonly degraded?: boolean; readonly schedule_lag_ms?: Summary }>>,
): string[] {
  return Object.entries(modes).flatMap(([name, { degraded, schedule_lag_ms: lag }]) =>
    degraded && lag
      ? [
          `! degraded (${name}): turns were sent late by p50 ${formatMs(lag.p50)}, p90 ${formatMs(lag.p90)}, p99 ${formatMs(lag.p99)}, ` +
            'so the load was not the one that was asked for; nodes were too slow for it',
        ]
      : [],
  );
}
