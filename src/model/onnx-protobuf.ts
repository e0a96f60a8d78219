// Protocol-buffer encoding, as far as an ONNX file needs it.

/** One encoded field. */
export type Field = Uint8Array;

const varintWire = 0;
const bytesWire = 2;
const fixed32Wire = 5;

function varint(value: bigint): number[] {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, value);
  for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
  bytes.push(Number(rest));
  return bytes;
}

function tag(field: number, wire: number): number[] {
  return varint(BigInt(field) * 8n + BigInt(wire));
}

export function integer(field: number, value: number | bigint): Field {
  return Uint8Array.from([...tag(field, varintWire), ...varint(BigInt(value))]);
}

export function float(field: number, value: number): Field {
  const head = tag(field, fixed32Wire);
  const out = Buffer.alloc(head.length + 4);
  out.set(head);
  out.writeFloatLE(value, head.length);
  return out;
}

export function bytes(field: number, value: Uint8Array): Field {
  return Buffer.concat([Uint8Array.from([...tag(field, bytesWire), ...varint(BigInt(value.length))]), value]);
}

export function text(field: number, value: string): Field {
  return bytes(field, Buffer.from(value));
}

export function message(field: number, fields: readonly Field[]): Field {
  return bytes(field, Buffer.concat(fields));
}
