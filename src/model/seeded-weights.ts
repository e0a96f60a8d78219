// Seeded random weights in bf16, the same bits on every machine: 32-bit integer arithmetic and one table per tensor.
import { createHash } from 'node:crypto';

/** Elements made at a time, so that a large tensor never lies in memory as a whole. */
const chunkElements = 1 << 18;

/** The sum of four uniform bytes: 0…1020, mean 510, nearly normal. Its variance is 4 · (256² − 1) / 12. */
const maxByteSum = 4 * 255;
const byteSumStd = Math.sqrt(21_845);

/**
 * Elements of one tensor as little-endian bf16, drawn around 0 with standard deviation `std` (at most 3.45 · std away).
 * Element i depends on seed, name and i alone, so tensors may be made in any order.
 */
export function* seededTensor(
  seed: number,
  name: string,
  numElements: number,
  std: number,
): Generator<Uint8Array> {
  const key = createHash('sha256').update(`${seed}:${name}`).digest().readInt32LE();
  const values = bf16Table(std);
  for (let start = 0; start < numElements; start += chunkElements) {
    const bytes = Buffer.allocUnsafe(2 * Math.min(chunkElements, numElements - start));
    for (let i = 0; 2 * i < bytes.length; i++) {
      const value = values[byteSum(mix(mix(start + i) ^ key))]!;
      bytes[2 * i] = value & 0xff;
      bytes[2 * i + 1] = value >>> 8;
    }
    yield bytes;
  }
}

/** All elements equal, e.g. a norm's gain. */
export function* constantTensor(numElements: number, value: number): Generator<Uint8Array> {
  const bits = bf16(value);
  yield Buffer.from(new Uint8Array(2 * numElements).map((_, i) => (i % 2 === 0 ? bits & 0xff : bits >>> 8)));
}

/** A bijection of 32 bits that scatters well; constants from Chris Wellons' hash-prospector. */
function mix(value: number): number {
  let x = value;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return x ^ (x >>> 15);
}

function byteSum(x: number): number {
  return (x & 0xff) + ((x >>> 8) & 0xff) + ((x >>> 16) & 0xff) + (x >>> 24);
}

/** bf16 bits of each possible byte sum, scaled to standard deviation `std`. */
function bf16Table(std: number): Uint16Array {
  const scale = std / byteSumStd;
  return Uint16Array.from({ length: maxByteSum + 1 }, (_, sum) => bf16((sum - maxByteSum / 2) * scale));
}

/** Upper half of the float32, rounded to nearest, ties to even. */
function bf16(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}
