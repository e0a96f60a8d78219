// Rotary inverse frequencies and the factor on cosines and sines, for every rope scaling of the supported families.
//
// All are functions of the position alone: a key once rotated stays in the cache, and a peer may read it. Where the
// reference implementations let frequencies follow the sequence's length (dynamic, longrope), they are fixed ahead, as
// vLLM does.

export type RopeParameters =
  | { readonly type: 'default'; readonly theta: number }
  | { readonly type: 'linear'; readonly theta: number; readonly factor: number }
  /** Fixed at the longest sequence, `factor` times what the model was trained for. */
  | { readonly type: 'dynamic'; readonly theta: number; readonly factor: number }
  | {
      readonly type: 'llama3';
      readonly theta: number;
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositionEmbeddings: number;
    }
  | {
      readonly type: 'yarn';
      readonly theta: number;
      readonly factor: number;
      readonly originalMaxPositionEmbeddings: number;
      /** Rotations over the original context above which a frequency is kept, and below which it is divided. */
      readonly betaFast: number;
      readonly betaSlow: number;
      /** Whether the bounds between them are rounded to whole dimensions. */
      readonly truncate: boolean;
      readonly attentionFactor: number;
    }
  | {
      readonly type: 'longrope';
      readonly theta: number;
      /** Which of the two lists counts: the long one if sequences may be longer than the original context. */
      readonly uses: 'short' | 'long';
      /** (rotary_dim / 2) divisors */
      readonly factors: readonly number[];
      readonly originalMaxPositionEmbeddings: number;
      readonly attentionFactor: number;
    };

type Rope<Type extends RopeParameters['type']> = Extract<RopeParameters, { type: Type }>;

/** (rotary_dim / 2) inverse frequencies, in float32 as the reference implementations hold them. */
export function inverseFrequencies(rotaryDim: number, rope: RopeParameters): Float32Array {
  const theta = rope.type === 'dynamic' ? dynamicTheta(rotaryDim, rope) : rope.theta;
  const frequency = (i: number) => 1 / theta ** ((2 * i) / rotaryDim);
  const keep = rope.type === 'yarn' ? yarnShares(rotaryDim, rope) : null;
  return Float32Array.from({ length: rotaryDim / 2 }, (_, i) => {
    switch (rope.type) {
      case 'default':
      case 'dynamic':
        return frequency(i);
      case 'linear':
        return frequency(i) / rope.factor;
      case 'llama3':
        return llama3(frequency(i), rope);
      case 'yarn':
        return (frequency(i) / rope.factor) * (1 - keep![i]!) + frequency(i) * keep![i]!;
      case 'longrope':
        return frequency(i) / rope.factors[i]!;
    }
  });
}

/** What cosines and sines are multiplied with, so that longer contexts do not flatten the attention. */
export function ropeAttentionScaling(rope: RopeParameters): number {
  return rope.type === 'yarn' || rope.type === 'longrope' ? rope.attentionFactor : 1;
}

/**
 * Long wavelengths are stretched by `factor`, short ones kept, those between blended.
 * As in transformers, `modeling_rope_utils.py`, `_compute_llama3_parameters`.
 */
function llama3(frequency: number, rope: Rope<'llama3'>): number {
  const wavelength = (2 * Math.PI) / frequency;
  const original = rope.originalMaxPositionEmbeddings;
  if (wavelength > original / rope.lowFreqFactor) return frequency / rope.factor;
  if (wavelength < original / rope.highFreqFactor) return frequency;
  const smooth = (original / wavelength - rope.lowFreqFactor) / (rope.highFreqFactor - rope.lowFreqFactor);
  return ((1 - smooth) * frequency) / rope.factor + smooth * frequency;
}

/**
 * θ · (factor · L / L₀ − (factor − 1)) ^ (d / (d − 2)) with L, the length that it is made for, fixed at factor · L₀.
 * As in vLLM, `dynamic_ntk_scaling_rope.py`.
 */
function dynamicTheta(rotaryDim: number, { theta, factor }: Rope<'dynamic'>): number {
  return theta * (factor * factor - (factor - 1)) ** (rotaryDim / (rotaryDim - 2));
}

/**
 * (rotary_dim / 2) shares, in [0, 1], of the unstretched frequency: 1 for dimensions that turn more than `betaFast`
 * times in the original context, 0 for those that turn less than `betaSlow` times, linear between.
 * YaRN, arXiv:2309.00071, section 3.2, with bounds in dimensions as in transformers and vLLM.
 */
function yarnShares(rotaryDim: number, rope: Rope<'yarn'>): number[] {
  const dimensionOf = (rotations: number) =>
    (rotaryDim * Math.log(rope.originalMaxPositionEmbeddings / (rotations * 2 * Math.PI))) /
    (2 * Math.log(rope.theta));
  const [from, to] = [dimensionOf(rope.betaFast), dimensionOf(rope.betaSlow)];
  const low = Math.max(rope.truncate ? Math.floor(from) : from, 0);
  const high = Math.min(rope.truncate ? Math.ceil(to) : to, rotaryDim - 1);
  const width = high === low ? 0.001 : high - low;
  return Array.from({ length: rotaryDim / 2 }, (_, i) => 1 - Math.min(1, Math.max(0, (i - low) / width)));
}

/** YaRN's √(1/t) = 0.1 · ln(factor) + 1 for a context `factor` times as long, weighted by `mscale`. */
export function yarnMscale(factor: number, mscale = 1): number {
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

/** LongRoPE's √(1 + ln s / ln L₀) for a context s times as long as the original one, L₀; arXiv:2402.13753. */
export function longropeMscale(scale: number, originalMaxPositionEmbeddings: number): number {
  return scale <= 1 ? 1 : Math.sqrt(1 + Math.log(scale) / Math.log(originalMaxPositionEmbeddings));
}
