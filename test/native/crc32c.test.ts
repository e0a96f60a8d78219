// The checksum of blocks on data connections: the published values, and the same with and without the instruction.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadNative } from '../../src/native.js';

/** RFC 3720, B.4, and the usual check value. */
const published: [bytes: Buffer, crc: number][] = [
  [Buffer.alloc(0), 0],
  [Buffer.from('123456789'), 0xe3069283],
  [Buffer.alloc(32), 0x8a9136aa],
  [Buffer.alloc(32, 0xff), 0x62a8ab43],
  [Buffer.from(Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e],
  [Buffer.from(Array.from({ length: 32 }, (_, i) => 31 - i)), 0x113fdb5c],
];

test('published checksums come out', () => {
  for (const [bytes, crc] of published) {
    for (const portable of [false, true]) assert.is(loadNative().crc32c(bytes, { portable }), crc);
  }
});

test('any length, from any byte on, has the same checksum with and without the instruction', () => {
  const bytes = Buffer.from(Array.from({ length: 40_000 }, (_, i) => (i * i * 31 + (i >> 3)) & 255));
  for (const length of [
    1, 7, 8, 9, 255, 767, 768, 769, 1536, 12_287, 12_288, 12_289, 13_056, 24_576, 39_990,
  ]) {
    for (const start of [0, 1, 3, 8]) {
      const part = bytes.subarray(start, start + length);
      const portable = loadNative().crc32c(part, { portable: true });
      assert.is(loadNative().crc32c(part), portable, `${length} bytes from ${start} on`);
    }
  }
});

test.run();
