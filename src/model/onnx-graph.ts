// Builds an ONNX graph node by node and encodes it; field numbers are those of onnx.proto.
import { numElements } from './model-tensors.js';
import { bytes, type Field, float, integer, message, text } from './onnx-protobuf.js';

/** Numbers of TensorProto.DataType. */
const dtypeNumbers = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, float16: 10 } as const;

export type OnnxDtype = keyof typeof dtypeNumbers;

/** Whole numbers become INT attributes; a FLOAT says so, because 1 may be either. */
export type Attribute =
  | number
  | string
  | readonly number[]
  | { readonly float: number }
  | { readonly dtype: OnnxDtype };

/** A size, or the name of one that is known only when the graph runs. */
export type Dimension = number | string;

/** A tensor whose bytes lie in the file beside the graph. */
export interface ExternalTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Bytes from the beginning of that file. */
  readonly offset: number;
}

/** Numbers of float16 come as their bits. */
export type ConstantValues = Float32Array | BigInt64Array | Uint8Array | Int8Array | Uint16Array;

export interface NodeOptions {
  readonly attributes?: Readonly<Record<string, Attribute>>;
  /** '' = ONNX's own operators. */
  readonly domain?: string;
  /** Names of the outputs; one with a name of its own if absent. */
  readonly outputs?: readonly string[];
}

/** So that the file can be mapped and a tensor used where it lies. */
const externalAlignment = 4096;

const producer = 'vllm-pd';
const irVersion = 10;

export class OnnxGraph {
  readonly #nodes: Field[] = [];
  readonly #initializers: Field[] = [];
  readonly #inputs: Field[] = [];
  readonly #outputs: Field[] = [];
  readonly #externalFile: string;
  readonly #external: ExternalTensor[] = [];
  #externalEnd = 0;

  constructor(externalFile: string) {
    this.#externalFile = externalFile;
  }

  /** In the order in which they lie in the file, without overlap. */
  get externalTensors(): readonly ExternalTensor[] {
    return this.#external;
  }

  input(name: string, dtype: OnnxDtype, shape: readonly Dimension[]): string {
    this.#inputs.push(message(11, valueInfo(name, dtype, shape)));
    return name;
  }

  output(name: string, dtype: OnnxDtype, shape: readonly Dimension[]): void {
    this.#outputs.push(message(12, valueInfo(name, dtype, shape)));
  }

  /** Returns the name of the (first) output. */
  node(opType: string, inputs: readonly string[], options: NodeOptions = {}): string {
    const { attributes = {}, domain = '', outputs = [`${opType}_${this.#nodes.length}`] } = options;
    this.#nodes.push(
      message(1, [
        ...inputs.map((name) => text(1, name)),
        ...outputs.map((name) => text(2, name)),
        text(3, outputs[0]!),
        text(4, opType),
        ...Object.entries(attributes).map(([name, value]) => message(5, attribute(name, value))),
        text(7, domain),
      ]),
    );
    return outputs[0]!;
  }

  /** A tensor inside the graph file. `shape` [] is a scalar. */
  constant(name: string, values: ConstantValues, shape: readonly number[]): string {
    const raw = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const dtype = dtypeOf(values);
    this.#initializers.push(message(5, [...tensorHead(name, dtype, shape), bytes(9, raw)]));
    return name;
  }

  /** A float32 tensor in the external file; the caller writes its bytes there. */
  external(name: string, shape: readonly number[]): string {
    const offset = Math.ceil(this.#externalEnd / externalAlignment) * externalAlignment;
    const length = 4 * numElements(shape);
    this.#external.push({ name, shape, offset });
    this.#externalEnd = offset + length;
    const entries = { location: this.#externalFile, offset: String(offset), length: String(length) };
    this.#initializers.push(
      message(5, [
        ...tensorHead(name, 'float32', shape),
        ...Object.entries(entries).map(([key, value]) => message(13, [text(1, key), text(2, value)])),
        integer(14, 1),
      ]),
    );
    return name;
  }

  /** The file's bytes. */
  encode(opsets: Readonly<Record<string, number>>): Uint8Array {
    const graph = [
      ...this.#nodes,
      text(2, 'decoder'),
      ...this.#initializers,
      ...this.#inputs,
      ...this.#outputs,
    ];
    return Buffer.concat([
      integer(1, irVersion),
      text(2, producer),
      message(7, graph),
      ...Object.entries(opsets).map(([domain, version]) =>
        message(8, [text(1, domain), integer(2, version)]),
      ),
    ]);
  }
}

function dtypeOf(values: ConstantValues): OnnxDtype {
  if (values instanceof Float32Array) return 'float32';
  if (values instanceof BigInt64Array) return 'int64';
  if (values instanceof Uint16Array) return 'float16';
  return values instanceof Int8Array ? 'int8' : 'uint8';
}

function tensorHead(name: string, dtype: OnnxDtype, shape: readonly number[]): Field[] {
  return [...shape.map((size) => integer(1, size)), integer(2, dtypeNumbers[dtype]), text(8, name)];
}

function valueInfo(name: string, dtype: OnnxDtype, shape: readonly Dimension[]): Field[] {
  const dimensions = shape.map((size) =>
    message(1, [typeof size === 'number' ? integer(1, size) : text(2, size)]),
  );
  const tensorType = message(1, [integer(1, dtypeNumbers[dtype]), message(2, dimensions)]);
  return [text(1, name), message(2, [tensorType])];
}

function attribute(name: string, value: Attribute): Field[] {
  const head = text(1, name);
  if (typeof value === 'number') return [head, integer(3, value), integer(20, 2)];
  if (typeof value === 'string') return [head, text(4, value), integer(20, 3)];
  if (isList(value)) return [head, ...value.map((entry) => integer(8, entry)), integer(20, 7)];
  if ('dtype' in value) return [head, integer(3, dtypeNumbers[value.dtype]), integer(20, 2)];
  return [head, float(2, value.float), integer(20, 1)];
}

function isList(value: object): value is readonly number[] {
  return Array.isArray(value);
}
