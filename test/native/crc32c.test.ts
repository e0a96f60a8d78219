// The checksum of blocks on data connections: the published values, and the same in each way that there is.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { checksumWays, loadNative } from '../../src/native.js';

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
    for (const way of checksumWays) assert.is(loadNative().crc32c(bytes, way), crc);
  }
});

test('any length, from any byte on, has the same checksum in each way', () => {
  const bytes = Buffer.from(Array.from({ length: 40_000 }, (_, i) => (i * i * 31 + (i >> 3)) & 255));
  for (const length of [
    1, 7, 8, 9, 255, 767, 768, 769, 1023, 1024, 1279, 1280, 1281, 1536, 12_287, 12_288, 12_289, 13_056,
    24_576, 39_990,
  ]) {
    for (const start of [0, 1, 3, 8]) {
      const part = bytes.subarray(start, start + length);
      const expected = loadNative().crc32c(part, 'tables');
      for (const way of checksumWays)
        assert.is(loadNative().crc32c(part, way), expected, `${length} bytes from ${start} on, ${way}`);
    }
  }
});

test.run();
