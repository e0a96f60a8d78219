// How tokens are drawn where the logits lie, as numbers that cross into the native module.
import { VllmPdError } from '../errors.js';

/** How one row's token is drawn: temperature, then top-k, then top-p, as src/worker/sampler.ts does it. */
export interface Draw {
  /** Below 1e-5: the largest logit, of equal ones the first. */
  readonly temperature: number;
  /** 0 = all. */
  readonly topK: number;
  /** 1 = all. */
  readonly topP: number;
  /** In [0, 1): where in the cumulative distribution the token is taken. */
  readonly share: number;
  /** Never drawn unless nothing else is left; at most `maxForbidden`. */
  readonly forbidden: readonly number[];
}

/** As in native/cuda/args.h. */
export const maxForbidden = 8;

export interface PackedDraws {
  /** (num_draws, 3): temperature, topP, share. */
  readonly reals: Float64Array;
  /** (num_draws, 2 + maxForbidden): row, topK, forbidden tokens; -1 where there are fewer. */
  readonly ints: Int32Array;
  /** Rows without a draw: their logits are wanted. */
  readonly logitsRows: Int32Array;
}

/** One entry a row of logits. Throws INVALID_ARGUMENT for numbers that no draw has. */
export function packDraws(draws: readonly (Draw | null)[]): PackedDraws {
  const reals: number[] = [];
  const ints: number[] = [];
  const logitsRows: number[] = [];
  for (const [row, draw] of draws.entries()) {
    if (draw === null) {
      logitsRows.push(row);
      continue;
    }
    check(draw);
    const { temperature, topP, share, topK, forbidden } = draw;
    reals.push(temperature, topP, share);
    ints.push(row, topK, ...forbidden, ...new Array<number>(maxForbidden - forbidden.length).fill(-1));
  }
  return {
    reals: Float64Array.from(reals),
    ints: Int32Array.from(ints),
    logitsRows: Int32Array.from(logitsRows),
  };
}

function check({ temperature, topP, share, topK, forbidden }: Draw): void {
  const fits =
    temperature >= 0 &&
    Number.isFinite(temperature) &&
    topP >= 0 &&
    share >= 0 &&
    share < 1 &&
    Number.isInteger(topK) &&
    topK >= 0 &&
    topK < 2 ** 31 &&
    forbidden.length <= maxForbidden &&
    forbidden.every((id) => Number.isInteger(id) && id >= 0);
  if (fits) return;
  const received = JSON.stringify({ temperature, topP, share, topK, forbidden });
  throw new VllmPdError('INVALID_ARGUMENT', `Expected how to draw a token but received ${received}.`);
}
