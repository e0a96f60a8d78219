// Half and brain floats: every half float comes back, rounding goes to the nearest, ties to even.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { bfloat16ToFloat32, float16ToFloat32, float32ToFloat16 } from '../../src/model/float16.js';

test('every half float survives the way to float32 and back', () => {
  const isNaN16 = (bits: number) => (bits & 0x7fff) > 0x7c00;
  const halves = Uint16Array.from({ length: 1 << 16 }, (_, bits) => bits).filter((bits) => !isNaN16(bits));
  assert.equal(float32ToFloat16(float16ToFloat32(halves)), halves);
});

const rounded: readonly (readonly [from: number, to: number])[] = [
  [1 + 2 ** -11, 1],
  [1 + 3 * 2 ** -11, 1 + 2 ** -9],
  [1 + 2 ** -11 + 2 ** -20, 1 + 2 ** -10],
  [2 - 2 ** -12, 2],
  [65_519, 65_504],
  [65_520, Infinity],
  [-1e9, -Infinity],
  [2 ** -24, 2 ** -24],
  [2 ** -25, 0],
  [1.5 * 2 ** -25, 2 ** -24],
  [2 ** -14 - 2 ** -26, 2 ** -14],
  [-Infinity, -Infinity],
];

for (const [from, to] of rounded) {
  test(`${from} is ${to} as a half float`, () => {
    assert.is(float16ToFloat32(float32ToFloat16(Float32Array.of(from)))[0], to);
  });
}

test('what is no number stays none', () => {
  assert.ok(Number.isNaN(float16ToFloat32(float32ToFloat16(Float32Array.of(NaN)))[0]));
});

test('brain floats are the upper halves of float32', () => {
  assert.equal([...bfloat16ToFloat32(Uint16Array.of(0x3f80, 0xc000, 0x7f80, 0))], [1, -2, Infinity, 0]);
});

test.run();
