// What a row is asked to reach, said in words and held against what was measured.
import { formatMs } from '../bench/format.js';

export type Target =
  /** Of the limit. */
  | { readonly kind: 'ratio'; readonly atLeast: number }
  /** In the row's unit. */
  | { readonly kind: 'rate'; readonly atLeast: number }
  /** For one of what the row counts. */
  | { readonly kind: 'time'; readonly atMostMs: number }
  /** For one round, beyond what the limit takes. */
  | { readonly kind: 'added time'; readonly atMostMs: number };

export interface Verdict {
  /** `≥ 0.90`: of the limit, if it does not say of what. */
  readonly asked: string;
  /** What was measured, in the same words. */
  readonly reached: string;
  readonly is_reached: boolean;
}

/** `value` and `limitValue` in `unit`; `ms` and `limitMs` of one round, medians. */
export interface Measured {
  readonly unit: string;
  readonly value: number;
  readonly ratio: number;
  readonly ms: number;
  readonly limitMs: number;
}

export function judge(target: Target, { unit, value, ratio, ms, limitMs }: Measured): Verdict {
  switch (target.kind) {
    case 'ratio':
      return verdict('≥', target.atLeast, ratio, (share) => share.toFixed(2));
    case 'rate':
      return verdict('≥', target.atLeast, value, (rate) => `${formatRate(rate)} ${unit}`);
    case 'time':
      return verdict('≤', target.atMostMs, 1000 / value, formatMs);
    case 'added time':
      return verdict('≤', target.atMostMs, Math.max(0, ms - limitMs), (added) => `${formatMs(added)} more`);
  }
}

function verdict(
  relation: '≥' | '≤',
  asked: number,
  reached: number,
  format: (value: number) => string,
): Verdict {
  return {
    asked: `${relation} ${format(asked)}`,
    reached: format(reached),
    is_reached: relation === '≥' ? reached >= asked : reached <= asked,
  };
}

/** Three significant digits: `0.412`, `23.1`, `1,230`, `18.2 M`. */
export function formatRate(value: number): string {
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3)).toLocaleString('en-US')} M`;
  return Number(value.toPrecision(3)).toLocaleString('en-US', { maximumFractionDigits: 6 });
}
