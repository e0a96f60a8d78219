// Means and percentiles of a sample.
import { mean, quantile } from 'simple-statistics';

/** Null where nothing was measured. */
export interface Summary {
  readonly mean: number | null;
  readonly p50: number | null;
  readonly p90: number | null;
  readonly p99: number | null;
}

/**
 * Percentiles interpolate linearly between the two nearest values, at position (n − 1) · p of the sorted sample:
 * numpy's default and R's type 7, so figures compare with those of vLLM's own benchmark.
 */
export function summarize(values: readonly (number | null)[]): Summary {
  const sample = values.filter((value) => value !== null);
  if (sample.length === 0) return { mean: null, p50: null, p90: null, p99: null };
  const at = (p: number) => round(quantile(sample, p));
  return { mean: round(mean(sample)), p50: at(0.5), p90: at(0.9), p99: at(0.99) };
}

/** `a / b` to four digits; null where it would say nothing. */
export function ratio(a: number | null, b: number | null): number | null {
  return a === null || b === null || b === 0 ? null : Math.round((a / b) * 10_000) / 10_000;
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
