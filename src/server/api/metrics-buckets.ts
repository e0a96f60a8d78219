// Histogram limits, those of vLLM's metrics.

/** Seconds. */
export const firstToken = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
  2560,
];

/** Seconds. */
export const perToken = [
  0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];

/** Seconds. */
export const request = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
];

/** Seconds. */
export const nixlTransfer = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 5];

/** 2 KiB, 8 KiB … 8 GiB. */
export const nixlBytes = Array.from({ length: 12 }, (_, i) => 2 ** (11 + 2 * i));

export const nixlDescriptors = [10, 20, 30, 50, 75, 100, 200, 400, 1000, 2000, 4000, 10_000, 20_000, 50_000];

export const samples = [1, 2, 5, 10, 20];

/** Seconds; vLLM's limits of `nixl_xfer_time_seconds`, with shorter ones for transfers within one host. */
export const transfer = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 5,
];

/** Tokens. */
export const iteration = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

/** 1, 2, 5, 10, 20, 50 … up to `max`. */
export function upTo(max: number): number[] {
  const limits: number[] = [];
  for (let power = 1; power <= max; power *= 10) {
    for (const step of [1, 2, 5]) if (step * power <= max) limits.push(step * power);
  }
  return limits;
}
