// How a checkpoint stores the tensors that the forward pass needs: one by one, or fused, one below the other.
import type { NativeModelConfig, TensorLocation } from '../native/model-config.js';
import { expectedTensors, numElements, type TensorSpec } from './model-tensors.js';

export interface StoredConfig extends NativeModelConfig {
  readonly fusedProjections?: boolean;
}

/** A tensor of the file. */
export interface StoredTensor extends TensorSpec {
  /** What the forward pass calls its rows, from the top. */
  readonly parts: readonly TensorSpec[];
}

/** Phi-3's: the name of the fused matrix by those of its parts. */
const fusedNames: Readonly<Record<string, string>> = {
  'self_attn.q_proj': 'self_attn.qkv_proj',
  'self_attn.k_proj': 'self_attn.qkv_proj',
  'self_attn.v_proj': 'self_attn.qkv_proj',
  'mlp.gate_proj': 'mlp.gate_up_proj',
  'mlp.up_proj': 'mlp.gate_up_proj',
};

/** In the order of `expectedTensors`. */
export function storedTensors(config: StoredConfig): StoredTensor[] {
  const groups = new Map<string, TensorSpec[]>();
  for (const spec of expectedTensors(config)) {
    const name = config.fusedProjections ? fusedName(spec.name) : spec.name;
    groups.set(name, [...(groups.get(name) ?? []), spec]);
  }
  return [...groups].map(([name, parts]) => {
    const numRows = parts.reduce((sum, { shape }) => sum + shape[0]!, 0);
    return { name, shape: [numRows, ...parts[0]!.shape.slice(1)], parts };
  });
}

/** Rows lie one after the other, so a part of a matrix is a matrix of its own. */
export function partsOf(location: TensorLocation, { parts }: StoredTensor): TensorLocation[] {
  const elementBytes = location.length / numElements(location.shape);
  let { offset } = location;
  return parts.map(({ name, shape }) => {
    const length = numElements(shape) * elementBytes;
    const part = { ...location, name, shape, offset, length };
    offset += length;
    return part;
  });
}

function fusedName(name: string): string {
  const [, layer, part, kind] = /^(model\.layers\.\d+\.)(.+)\.(weight|bias)$/.exec(name) ?? [];
  const fused = part === undefined ? undefined : fusedNames[part];
  return fused === undefined ? name : `${layer}${fused}.${kind}`;
}
