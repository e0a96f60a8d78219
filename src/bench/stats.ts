// Means and percentiles of a sample.
import { mean, quantile, standardDeviation } from 'simple-statistics';

/** Null where nothing was measured. */
export interface Summary {
  readonly mean: number | null;
  /** Of the whole population, as numpy's default and vLLM's `std_…`. */
  readonly std: number | null;
  readonly p50: number | null;
  readonly p90: number | null;
  readonly p99: number | null;
  /** Those that were asked for besides. */
  readonly [percentile: `p${number}`]: number | null;
}

/** Between 0 and 100; those above are always there. */
export type Percentiles = readonly number[];

const always: Percentiles = [50, 90, 99];

/**
 * Percentiles interpolate linearly between the two nearest values, at position (n − 1) · p of the sorted sample:
 * numpy's default and R's type 7, so figures compare with those of vLLM's own benchmark.
 */
export function summarize(values: readonly (number | null)[], percentiles: Percentiles = []): Summary {
  const sample = values.filter((value) => value !== null);
  const wanted = [...new Set([...always, ...percentiles])];
  const isEmpty = sample.length === 0;
  const found = isEmpty
    ? []
    : quantile(
        sample,
        wanted.map((p) => p / 100),
      );
  const entries = wanted.map((p, i) => [`p${p}`, isEmpty ? null : round(found[i]!)]);
  return {
    mean: isEmpty ? null : round(mean(sample)),
    std: isEmpty ? null : round(standardDeviation(sample)),
    ...(Object.fromEntries(entries) as Pick<Summary, 'p50' | 'p90' | 'p99'>),
  };
}

/** `a / b` to four digits; null where it would say nothing. */
export function ratio(a: number | null, b: number | null): number | null {
  return a === null || b === null || b === 0 ? null : Math.round((a / b) * 10_000) / 10_000;
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
