// Which layers see a sliding window only, by config.json.
import { type ConfigFile, Refusal } from './config-file.js';
import type { ModelFamily } from './model-families.js';

export interface SlidingWindow {
  /** Keys that a query sees, itself included. */
  readonly size: number;
  /** Ascending. */
  readonly layers: readonly number[];
}

const layerTypes = ['full_attention', 'sliding_attention'] as const;

/** Null if every layer sees all. Throws a refusal by field. */
export function readSlidingWindow(file: ConfigFile, family: ModelFamily): SlidingWindow | null {
  const layers = slidingLayers(file, family);
  const { sliding_window: size } = file;
  if (layers.length === 0) return null;
  if (size == null) throw new Refusal('sliding_window', 'is missing, but layers are to have one');
  // One that nothing leaves is none.
  return size >= file.max_position_embeddings ? null : { size, layers };
}

/** (num_layers) as the native module takes it: 0 = sees all. */
export function windowsByLayer({ size, layers }: SlidingWindow, numLayers: number): number[] {
  return Array.from({ length: numLayers }, (_, layer) => (layers.includes(layer) ? size : 0));
}

function slidingLayers(file: ConfigFile, family: ModelFamily): number[] {
  const layers = Array.from({ length: file.num_hidden_layers }, (_, layer) => layer);
  const { layer_types: types } = file;
  if (types != null) {
    checkLayerTypes(types, file, family);
    return layers.filter((layer) => types[layer] === 'sliding_attention');
  }
  if (family.slidingWindow === 'never' || file.sliding_window == null) return [];
  if (family.slidingWindow === 'as_configured') return file.use_sliding_window === false ? [] : layers;
  if (!file.use_sliding_window) return [];
  // As in transformers: the first so many layers see all.
  return layers.slice(file.max_window_layers ?? 0);
}

function checkLayerTypes(types: readonly string[], file: ConfigFile, family: ModelFamily): void {
  const other = types.find((type) => !layerTypes.some((known) => known === type));
  if (other !== undefined || (family.slidingWindow === 'never' && types.includes('sliding_attention'))) {
    const supported = family.slidingWindow === 'never' ? layerTypes.slice(0, 1) : layerTypes;
    const quoted = supported.map((type) => `'${type}'`).join(' and ');
    throw new Refusal('layer_types', `'${other ?? 'sliding_attention'}' is not supported, only ${quoted}`);
  }
  if (types.length !== file.num_hidden_layers) {
    const what = `has ${types.length} entries for ${file.num_hidden_layers} layers`;
    throw new Refusal('layer_types', what);
  }
}
