// config.json → rope parameters, in the spellings of transformers 4 (`rope_theta`, `rope_scaling`) and 5
// (`rope_parameters`).
import { type ConfigFile, Refusal } from './config-file.js';
import { longropeMscale, type RopeParameters, yarnMscale } from './rope.js';

type RopeFile = NonNullable<ConfigFile['rope_scaling']>;

/** What a scaling is read from: the merged fields, and what surrounds them. */
interface Source {
  readonly rope: RopeFile;
  readonly theta: number;
  readonly maxPositionEmbeddings: number;
  readonly originalMaxPositionEmbeddings: number | null;
  /** Longest sequence that the node is configured for, if it said so. */
  readonly maxModelLen: number | null;
  readonly rotaryDim: number;
  /** Throws a refusal unless the field is there. */
  readonly required: <Name extends keyof RopeFile & string>(field: Name) => NonNullable<RopeFile[Name]>;
}

const readers: Readonly<Record<string, (source: Source) => RopeParameters>> = {
  default: ({ theta }) => ({ type: 'default', theta }),
  linear: ({ theta, required }) => ({ type: 'linear', theta, factor: required('factor') }),
  dynamic: ({ theta, required }) => ({ type: 'dynamic', theta, factor: required('factor') }),
  llama3: readLlama3,
  yarn: readYarn,
  longrope: readLongrope,
  // The name of longrope's first paper, in Phi-3's first configs.
  su: readLongrope,
};

/** How much of a head is rotated, in dimensions, and how. Throws a refusal by field. */
export function readRope(
  file: ConfigFile,
  headDim: number,
  maxModelLen: number | null,
): { readonly rope: RopeParameters; readonly rotaryDim: number } {
  const rope: RopeFile = { ...file.rope_scaling, ...file.rope_parameters };
  const type = rope.rope_type ?? rope.type ?? 'default';
  const read = Object.hasOwn(readers, type) ? readers[type] : undefined;
  if (!read) {
    const known = Object.keys(readers).join(', ');
    throw new Refusal('rope_scaling', `type '${type}' is not supported, only ${known}`);
  }
  const share = rope.partial_rotary_factor ?? file.partial_rotary_factor ?? 1;
  const rotaryDim = Math.trunc(headDim * share);
  if (rotaryDim % 2 !== 0 || rotaryDim === 0) {
    const what = `${share} of head_dim ${headDim} are ${rotaryDim} dimensions, which cannot be rotated in pairs`;
    throw new Refusal('partial_rotary_factor', what);
  }
  const source: Source = {
    rope,
    theta: rope.rope_theta ?? file.rope_theta ?? 10_000,
    maxPositionEmbeddings: file.max_position_embeddings,
    originalMaxPositionEmbeddings:
      rope.original_max_position_embeddings ?? file.original_max_position_embeddings ?? null,
    maxModelLen,
    rotaryDim,
    required: (field) => {
      const value = rope[field];
      if (value != null) return value as NonNullable<typeof value>;
      throw new Refusal(`rope_scaling.${field}`, `is required for rope type '${type}'`);
    },
  };
  return { rope: read(source), rotaryDim };
}

/** Longest sequence that the rotation was made for; as vLLM derives it where config.json gives the unscaled one. */
export function scaledMaxPositions(rope: RopeParameters, maxPositionEmbeddings: number): number {
  if (rope.type === 'linear' || rope.type === 'dynamic') {
    return Math.trunc(maxPositionEmbeddings * rope.factor);
  }
  if (rope.type === 'yarn') return Math.trunc(rope.originalMaxPositionEmbeddings * rope.factor);
  return maxPositionEmbeddings;
}

function readLlama3({ theta, required }: Source): RopeParameters {
  const factor = required('factor');
  const lowFreqFactor = required('low_freq_factor');
  const highFreqFactor = required('high_freq_factor');
  const originalMaxPositionEmbeddings = required('original_max_position_embeddings');
  if (highFreqFactor <= lowFreqFactor) {
    const what = `${highFreqFactor} is not above low_freq_factor ${lowFreqFactor}`;
    throw new Refusal('rope_scaling.high_freq_factor', what);
  }
  return { type: 'llama3', theta, factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings };
}

function readYarn(source: Source): RopeParameters {
  const { rope, theta, maxPositionEmbeddings, required } = source;
  const factor = required('factor');
  const [betaFast, betaSlow] = [rope.beta_fast ?? 32, rope.beta_slow ?? 1];
  if (betaFast <= betaSlow) {
    throw new Refusal('rope_scaling.beta_fast', `${betaFast} is not above beta_slow ${betaSlow}`);
  }
  const mscale =
    rope.mscale && rope.mscale_all_dim
      ? yarnMscale(factor, rope.mscale) / yarnMscale(factor, rope.mscale_all_dim)
      : yarnMscale(factor) * (rope.attn_factor ?? 1);
  return {
    type: 'yarn',
    theta,
    factor,
    originalMaxPositionEmbeddings: source.originalMaxPositionEmbeddings ?? maxPositionEmbeddings,
    betaFast,
    betaSlow,
    truncate: rope.truncate ?? true,
    attentionFactor: rope.attention_factor ?? mscale,
  };
}

function readLongrope(source: Source): RopeParameters {
  const { rope, theta, maxPositionEmbeddings, rotaryDim, required } = source;
  const lists = { short: required('short_factor'), long: required('long_factor') };
  for (const [name, list] of Object.entries(lists)) {
    if (list.length === rotaryDim / 2) continue;
    throw new Refusal(
      `rope_scaling.${name}_factor`,
      `has ${list.length} numbers instead of ${rotaryDim / 2}`,
    );
  }
  const original = source.originalMaxPositionEmbeddings;
  if (original === null) {
    throw new Refusal('original_max_position_embeddings', `is required for rope type 'longrope'`);
  }
  // As vLLM: the longest sequence decides once, so that no sequence outgrows the frequencies of its cached keys.
  const longest = Math.min(source.maxModelLen ?? maxPositionEmbeddings, maxPositionEmbeddings);
  const uses = longest > original ? 'long' : 'short';
  const scale = rope.factor ?? maxPositionEmbeddings / original;
  const own = uses === 'long' ? rope.long_mscale : rope.short_mscale;
  return {
    type: 'longrope',
    theta,
    uses,
    factors: lists[uses],
    originalMaxPositionEmbeddings: original,
    attentionFactor: own ?? rope.attention_factor ?? longropeMscale(scale, original),
  };
}
