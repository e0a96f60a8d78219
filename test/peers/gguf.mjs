// Writes a GGUF file (version 3): metadata, tensor directory, tensors, each aligned to 32 bytes.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
import { writeFileSync } from 'node:fs';

const alignment = 32;
const valueTypes = { uint32: 4, int32: 5, float32: 6, string: 8 };
const arrayType = 9;
const tensorTypes = { f32: 0, q8_0: 8, bf16: 30 };
const q8BlockSize = 32;

const uint32 = (value) => Buffer.from(Uint32Array.of(value).buffer);
const int32 = (value) => Buffer.from(Int32Array.of(value).buffer);
const float32 = (value) => Buffer.from(Float32Array.of(value).buffer);
const uint64 = (value) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer);
const string = (text) => Buffer.concat([uint64(Buffer.byteLength(text)), Buffer.from(text)]);

const encoders = { uint32, int32, float32, string };

/** Type and value; an array is written as such. */
function encodeValue(type, value) {
  const encode = encoders[type];
  if (!Array.isArray(value)) return Buffer.concat([uint32(valueTypes[type]), encode(value)]);
  const head = [uint32(arrayType), uint32(valueTypes[type]), uint64(value.length)];
  return Buffer.concat([...head, ...value.map(encode)]);
}

const padded = (size) => Math.ceil(size / alignment) * alignment;

/**
 * `metadata`: [key, 'uint32' | 'int32' | 'float32' | 'string', value or values] each. `tensors`: { name, shape, type, data }, the shape as
 * Hugging Face has it, (out_features, in_features); GGUF wants the fastest dimension first.
 */
export function writeGguf(path, metadata, tensors) {
  const head = [Buffer.from('GGUF'), uint32(3), uint64(tensors.length), uint64(metadata.length)];
  for (const [key, type, value] of metadata) {
    head.push(string(key), encodeValue(type, value));
  }
  let offset = 0;
  for (const { name, shape, type, data } of tensors) {
    head.push(string(name), uint32(shape.length), ...shape.toReversed().map(uint64));
    head.push(uint32(tensorTypes[type]), uint64(offset));
    offset += padded(data.length);
  }
  const header = Buffer.concat(head);
  const body = tensors.map(({ data }) =>
    Buffer.concat([data, Buffer.alloc(padded(data.length) - data.length)]),
  );
  writeFileSync(path, Buffer.concat([header, Buffer.alloc(padded(header.length) - header.length), ...body]));
}

/** bf16 → float32 */
export function widen(bf16) {
  const bits = new Uint16Array(bf16.buffer, bf16.byteOffset, bf16.length / 2);
  return new Float32Array(Uint32Array.from(bits, (half) => half << 16).buffer);
}

/** float32 → q8_0: blocks of 32 values, each a float16 scale and 32 int8. */
export function quantizeQ8(values) {
  const out = Buffer.alloc((values.length / q8BlockSize) * (2 + q8BlockSize));
  for (let start = 0, at = 0; start < values.length; start += q8BlockSize, at += 2 + q8BlockSize) {
    const block = values.subarray(start, start + q8BlockSize);
    const scale = block.reduce((max, value) => Math.max(max, Math.abs(value)), 0) / 127;
    out.writeUInt16LE(float16(scale), at);
    for (const [i, value] of block.entries())
      out.writeInt8(scale === 0 ? 0 : Math.round(value / scale), at + 2 + i);
  }
  return out;
}

/** Bits of the nearest float16, for what lies in its normal range or below it; smaller values become 0. */
function float16(value) {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0];
  const rounded = bits + 0xfff + ((bits >>> 13) & 1);
  const exponent = ((rounded >>> 23) & 0xff) - 127 + 15;
  return exponent <= 0 ? 0 : (exponent << 10) | ((rounded >>> 13) & 0x3ff);
}
