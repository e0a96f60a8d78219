// The distributions of lengths that vLLM's multi-turn benchmark knows, with its field names, and how to draw from them.
import { z } from 'zod';
import type { Random } from './random.js';

const positive = z.number().positive();
const max = positive.optional();

const lognormal = z
  .strictObject({
    distribution: z.literal('lognormal'),
    /** Wanted mean of the drawn values; the alternative to mean and sigma. */
    average: z.number().min(1).optional(),
    /** Median divided by average: the smaller, the longer the tail. */
    median_ratio: z.number().gt(0).lt(1).optional(),
    mean: z.number().optional(),
    sigma: z.number().positive().optional(),
    max,
  })
  .refine(
    (value) => (value.average === undefined) === (value.mean !== undefined && value.sigma !== undefined),
    {
      message: 'expected either average (and optionally median_ratio) or both mean and sigma',
    },
  )
  .refine((value) => value.average === undefined || (value.mean === undefined && value.sigma === undefined), {
    message: 'expected either average (and optionally median_ratio) or both mean and sigma',
  });

export const distributionSchema = z.discriminatedUnion('distribution', [
  z.strictObject({ distribution: z.literal('constant'), value: z.number().min(0) }),
  z
    .strictObject({ distribution: z.literal('uniform'), min: z.number().min(0), max: z.number().min(0) })
    .refine((value) => value.min <= value.max, { message: 'expected min to be at most max' }),
  lognormal,
  z.strictObject({ distribution: z.literal('zipf'), alpha: z.number().gt(1), max }),
  z.strictObject({ distribution: z.literal('poisson'), alpha: positive, max }),
]);

export type Distribution = z.infer<typeof distributionSchema>;

/** vLLM's default when only an average is given. */
const defaultMedianRatio = 0.85;

/** One value, rounded to an integer ≥ 0 and cut at the distribution's max. */
export function sample(distribution: Distribution, random: Random): number {
  const value = draw(distribution, random);
  const limit = 'max' in distribution && distribution.max !== undefined ? distribution.max : Infinity;
  return Math.max(0, Math.round(Math.min(value, limit)));
}

/**
 * The number of messages of a conversation, both roles: rounded up to an even number, at least 2, so that every user
 * message has an answer.
 */
export function sampleNumTurns(distribution: Distribution, random: Random): number {
  return Math.max(2, 2 * Math.ceil(sample(distribution, random) / 2));
}

function draw(distribution: Distribution, random: Random): number {
  switch (distribution.distribution) {
    case 'constant':
      return distribution.value;
    case 'uniform':
      return random.integer(Math.ceil(distribution.min), Math.floor(distribution.max));
    case 'lognormal': {
      const { mean, sigma } = lognormalParameters(distribution);
      return Math.exp(mean + sigma * random.normal());
    }
    case 'zipf':
      return drawZipf(distribution.alpha, random);
    case 'poisson':
      return drawPoisson(distribution.alpha, random);
  }
}

/** median = exp(mean) and average = exp(mean + sigma² / 2), so the ratio of the two fixes sigma. */
function lognormalParameters(distribution: Extract<Distribution, { distribution: 'lognormal' }>) {
  const { average, mean, sigma, median_ratio = defaultMedianRatio } = distribution;
  if (average === undefined) return { mean: mean!, sigma: sigma! };
  return { mean: Math.log(average * median_ratio), sigma: Math.sqrt(-2 * Math.log(median_ratio)) };
}

/** Rejection-inversion after Devroye, "Non-Uniform Random Variate Generation" (1986), chapter X.6. */
function drawZipf(alpha: number, random: Random): number {
  const b = 2 ** (alpha - 1);
  for (;;) {
    const u = 1 - random.next();
    const x = Math.floor(u ** (-1 / (alpha - 1)));
    const t = (1 + 1 / x) ** (alpha - 1);
    if (Number.isFinite(x) && (random.next() * x * (t - 1)) / (b - 1) <= t / b) return x;
  }
}

/** Knuth's product of uniforms, in parts: exp(-alpha) underflows for large alpha, and Poisson variables add up. */
function drawPoisson(alpha: number, random: Random): number {
  let count = 0;
  for (let rest = alpha; rest > 0; rest -= 30) {
    const limit = Math.exp(-Math.min(rest, 30));
    for (let product = random.next(); product > limit; product *= random.next()) count++;
  }
  return count;
}
