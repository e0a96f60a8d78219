// Figures and bars as people read them.

export function formatCount(value: number | null): string {
  return value === null ? '–' : Math.round(value).toLocaleString('en-US');
}

/** Three significant digits: `8.25 ms`, `431 ms`, `12.3 s`. */
export function formatMs(ms: number | null): string {
  if (ms === null) return '–';
  return ms < 10_000 ? `${significant(ms)} ms` : `${significant(ms / 1000)} s`;
}

export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const;
  const power = bytes === 0 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  return `${significant(bytes / 1024 ** power)} ${units[power]}`;
}

/** `share` 0–1. */
export function formatPercent(share: number): string {
  const percent = share * 100;
  if (percent > 0 && percent < 1) return '<1 %';
  return percent > 99 && percent < 100 ? '>99 %' : `${Math.round(percent)} %`;
}

/** A ratio as `formatPercent` shows it. */
export function formatShare(share: number | null): string {
  return share === null ? '–' : formatPercent(share);
}

/** Per second; three significant digits. */
export function formatRate(rate: number | null): string {
  return rate === null ? '–' : significant(rate);
}

/** Old time / new time as a sentence's end: `3.91× faster`. */
export function formatSpeedup(speedup: number): string {
  return speedup >= 1 ? `${speedup.toFixed(2)}× faster` : `${(1 / speedup).toFixed(2)}× slower`;
}

const eighths = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'] as const;

/** A bar of `width` columns, filled for `share` of it in steps of an eighth. */
export function bar(share: number, width: number): string {
  const filled = Math.round(Math.min(1, Math.max(0, share)) * width * 8);
  const text = '█'.repeat(filled >> 3) + (eighths[filled & 7] ?? '');
  return text.padEnd(width);
}

/** Shares of one whole side by side. Rounding is carried on, so that the bar is exactly `width` columns. */
export function stackedBar(
  parts: readonly { readonly share: number; readonly glyph: string }[],
  width: number,
): string {
  let sum = 0;
  let drawn = 0;
  let text = '';
  for (const { share, glyph } of parts) {
    sum += share;
    const end = Math.round(Math.min(1, sum) * width);
    text += glyph.repeat(Math.max(0, end - drawn));
    drawn = Math.max(drawn, end);
  }
  return text;
}

function significant(value: number): string {
  if (value === 0) return '0';
  if (value >= 100) return Math.round(value).toLocaleString('en-US');
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
