// Rotary inverse frequencies, with the rope scalings `default`, `linear` and `llama3` applied.

export type RopeParameters =
  | { readonly type: 'default'; readonly theta: number }
  | { readonly type: 'linear'; readonly theta: number; readonly factor: number }
  | {
      readonly type: 'llama3';
      readonly theta: number;
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositionEmbeddings: number;
    };

/** (head_dim / 2) inverse frequencies, in float32 as the reference implementations hold them. */
export function inverseFrequencies(headDim: number, rope: RopeParameters): Float32Array {
  const frequencies = new Float32Array(headDim / 2);
  for (let i = 0; i < frequencies.length; i++) {
    frequencies[i] = scaled(1 / rope.theta ** ((2 * i) / headDim), rope);
  }
  return frequencies;
}

function scaled(frequency: number, rope: RopeParameters): number {
  switch (rope.type) {
    case 'default':
      return frequency;
    case 'linear':
      return frequency / rope.factor;
    case 'llama3':
      return llama3(frequency, rope);
  }
}

/**
 * Long wavelengths are stretched by `factor`, short ones kept, those between blended.
 * As in transformers, `modeling_rope_utils.py`, `_compute_llama3_parameters`.
 */
function llama3(frequency: number, rope: Extract<RopeParameters, { type: 'llama3' }>): number {
  const wavelength = (2 * Math.PI) / frequency;
  const original = rope.originalMaxPositionEmbeddings;
  if (wavelength > original / rope.lowFreqFactor) return frequency / rope.factor;
  if (wavelength < original / rope.highFreqFactor) return frequency;
  const smooth = (original / wavelength - rope.lowFreqFactor) / (rope.highFreqFactor - rope.lowFreqFactor);
  return ((1 - smooth) * frequency) / rope.factor + smooth * frequency;
}
