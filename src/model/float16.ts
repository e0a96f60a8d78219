// Half and brain floats as their 16 bits, and back.

let table: Float32Array | undefined;

/** All 65 536 half floats by their bits; made on first use. */
function halfTable(): Float32Array {
  if (!table) {
    table = new Float32Array(1 << 16);
    for (let bits = 0; bits < table.length; bits++) table[bits] = decodeHalf(bits);
  }
  return table;
}

function decodeHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

export function float16ToFloat32(halves: Uint16Array): Float32Array {
  const values = halfTable();
  const out = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) out[i] = values[halves[i]!]!;
  return out;
}

export function bfloat16ToFloat32(halves: Uint16Array): Float32Array {
  return new Float32Array(Uint32Array.from(halves, (bits) => bits << 16).buffer);
}

/** Rounds to nearest, ties to even; beyond the range to infinity. Exact for what was a half float before. */
export function float32ToFloat16(floats: Float32Array): Uint16Array {
  const bits = new Uint32Array(floats.buffer, floats.byteOffset, floats.length);
  return Uint16Array.from(bits, encodeHalf);
}

function encodeHalf(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const exponent = ((bits >>> 23) & 0xff) - 127 + 15;
  const fraction = bits & 0x7fffff;
  if (exponent === 0xff - 127 + 15) return sign | 0x7c00 | (fraction === 0 ? 0 : 0x200);
  if (exponent >= 0x1f) return sign | 0x7c00;
  if (exponent > 0) return sign | roundShift((exponent << 23) | fraction, 13);
  // Subnormal: the leading 1 becomes part of the fraction.
  return exponent < -10 ? sign : sign | roundShift(fraction | 0x800000, 14 - exponent);
}

/** A carry out of the fraction runs on into the exponent, as it should. */
function roundShift(value: number, shift: number): number {
  const half = (1 << (shift - 1)) - 1;
  return (value + half + ((value >>> shift) & 1)) >>> shift;
}
