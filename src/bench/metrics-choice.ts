// What to report of a run besides what is always there: part of the run, or chosen when it is shown again.
import { parseObjectives } from './goodput.js';
import type { RunInfo } from './run-info.js';

export type MetricsChoice = Partial<Pick<RunInfo, 'metric_percentiles' | 'goodput'>>;

/** From the flags of these names; what was not given is absent. INVALID_ARGUMENT for what is no objective. */
export function metricsChoice(flags: {
  readonly 'metric-percentiles'?: readonly number[] | undefined;
  readonly goodput?: readonly string[] | undefined;
}): MetricsChoice {
  const { goodput, 'metric-percentiles': percentiles } = flags;
  return {
    ...(percentiles && { metric_percentiles: percentiles }),
    ...(goodput && { goodput: parseObjectives(goodput) }),
  };
}
