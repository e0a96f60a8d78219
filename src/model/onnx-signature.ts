// What an exported decoder takes and gives, read from its inputs and outputs; anything else is refused by name.
import { VllmPdError } from '../errors.js';

/** An input or output as ONNX Runtime describes it. `type` is null for what is no tensor. */
export interface ValueInfo {
  readonly name: string;
  readonly type: string | null;
  /** Sizes, and names of those that are known only when it runs. */
  readonly shape: readonly (number | string)[];
}

export type FloatType = 'float32' | 'float16';

export interface OnnxSignature {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  /** Of past_key_values and present. */
  readonly kvType: FloatType;
  readonly hasPositionIds: boolean;
  /** The graph computes logits of the last rows only, as many as it is told. */
  readonly hasNumLogitsToKeep: boolean;
}

const floatTypes: readonly string[] = ['float32', 'float16'] satisfies FloatType[];

const kvParts = ['key', 'value'] as const;

/** Throws BAD_FILE naming the input or output that is missing, unknown or of another form than expected. */
export function readSignature(
  path: string,
  inputs: readonly ValueInfo[],
  outputs: readonly ValueInfo[],
): OnnxSignature {
  const reader = new SignatureReader(path, inputs, outputs);
  reader.expectInput('input_ids', ['int64'], 2);
  reader.expectInput('attention_mask', ['int64'], 2);
  const hasPositionIds = reader.hasInput('position_ids');
  if (hasPositionIds) reader.expectInput('position_ids', ['int64'], 2);
  const hasNumLogitsToKeep = reader.hasInput('num_logits_to_keep');
  if (hasNumLogitsToKeep) reader.expectInput('num_logits_to_keep', ['int64'], 0);
  const kv = reader.readKv();
  const logits = reader.expectOutput('logits', floatTypes, 3);
  const vocabSize = logits.shape[2]!;
  if (typeof vocabSize !== 'number') {
    throw reader.refuse(`output 'logits' has no fixed vocabulary size in its shape ${show(logits.shape)}`);
  }
  reader.refuseOtherInputs();
  return {
    ...kv,
    vocabSize,
    hasPositionIds,
    hasNumLogitsToKeep,
  };
}

class SignatureReader {
  readonly #path: string;
  readonly #inputs: ReadonlyMap<string, ValueInfo>;
  readonly #outputs: ReadonlyMap<string, ValueInfo>;
  readonly #known = new Set<string>();

  constructor(path: string, inputs: readonly ValueInfo[], outputs: readonly ValueInfo[]) {
    this.#path = path;
    this.#inputs = new Map(inputs.map((value) => [value.name, value]));
    this.#outputs = new Map(outputs.map((value) => [value.name, value]));
  }

  hasInput(name: string): boolean {
    return this.#inputs.has(name);
  }

  expectInput(name: string, types: readonly string[], rank: number): ValueInfo {
    this.#known.add(name);
    return this.#expect('input', this.#inputs.get(name), name, types, rank);
  }

  expectOutput(name: string, types: readonly string[], rank: number): ValueInfo {
    return this.#expect('output', this.#outputs.get(name), name, types, rank);
  }

  readKv(): Pick<OnnxSignature, 'numLayers' | 'numKvHeads' | 'headDim' | 'kvType'> {
    const first = this.expectInput('past_key_values.0.key', floatTypes, 4);
    const [, numKvHeads, , headDim] = first.shape;
    if (typeof numKvHeads !== 'number' || typeof headDim !== 'number') {
      const expected = '(batch, kv_heads, past, head_dim) with fixed kv_heads and head_dim';
      throw this.refuse(`input '${first.name}' has shape ${show(first.shape)}, but expected is ${expected}`);
    }
    let numLayers = 0;
    for (; this.hasInput(`past_key_values.${numLayers}.key`); numLayers++) {
      for (const part of kvParts) this.#expectKv(numLayers, part, first);
    }
    return { numLayers, numKvHeads, headDim, kvType: first.type as FloatType };
  }

  refuseOtherInputs(): void {
    const other = [...this.#inputs.keys()].find((name) => !this.#known.has(name));
    if (other !== undefined) throw this.refuse(`input '${other}' is not one that a decoder is given here`);
  }

  refuse(what: string): VllmPdError {
    return new VllmPdError('BAD_FILE', `${this.#path}: ${what}.`, {
      suggestions: [
        'Expected is a decoder with input_ids, attention_mask, past_key_values.N.key/value → logits, present.N.key/value.',
      ],
    });
  }

  #expectKv(layer: number, part: string, first: ValueInfo): void {
    const past = this.expectInput(`past_key_values.${layer}.${part}`, [first.type!], 4);
    const present = this.expectOutput(`present.${layer}.${part}`, [first.type!], 4);
    for (const [kind, { name, shape }] of [
      ['input', past],
      ['output', present],
    ] as const) {
      const fits = [1, 3].every((i) => typeof shape[i] === 'string' || shape[i] === first.shape[i]);
      if (fits) continue;
      throw this.refuse(
        `${kind} '${name}' has shape ${show(shape)}, but '${first.name}' ${show(first.shape)}`,
      );
    }
  }

  #expect(
    kind: string,
    value: ValueInfo | undefined,
    name: string,
    types: readonly string[],
    rank: number,
  ): ValueInfo {
    if (!value) throw this.refuse(`${kind} '${name}' is missing`);
    if (value.type === null || !types.includes(value.type)) {
      const found = value.type ?? 'no tensor';
      throw this.refuse(`${kind} '${name}' is ${found}, but only ${types.join(' or ')} is supported`);
    }
    if (value.shape.length !== rank) {
      const found = `shape ${show(value.shape)}`;
      throw this.refuse(`${kind} '${name}' has ${found}, but expected are ${rank} dimensions`);
    }
    return value;
  }
}

function show(shape: readonly (number | string)[]): string {
  return `(${shape.join(', ')})`;
}
