// MessagePack as it is written, byte for byte where the specification gives bytes, and read back for all else.
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { MsgpackWriter } from '../../src/engine/msgpack-writer.js';
import { unpack } from './msgpack-reader.js';

const hex = (write: (writer: MsgpackWriter) => MsgpackWriter) =>
  write(new MsgpackWriter()).finish().toString('hex');

test('every value has its shortest form', () => {
  const ints: Readonly<Record<string, number | bigint>> = {
    '00': 0,
    '7f': 127,
    cc80: 128,
    ccff: 255,
    cd0100: 256,
    cdffff: 65_535,
    ce00010000: 65_536,
    ceffffffff: 2 ** 32 - 1,
    cf0000000100000000: 2 ** 32,
    cfffffffffffffffff: 2n ** 64n - 1n,
    '05': 5n,
    ff: -1,
    e0: -32,
    d0df: -33,
    d080: -128,
    d1ff7f: -129,
    d2ffff7fff: -32_769,
    d3ffffffff7fffffff: -(2 ** 31) - 1,
  };
  for (const [bytes, value] of Object.entries(ints))
    assert.is(
      hex((writer) => writer.int(value)),
      bytes,
      String(value),
    );
  assert.is(
    hex((writer) => writer.nil()),
    'c0',
  );
  assert.is(
    hex((writer) => writer.float64(1.5)),
    'cb3ff8000000000000',
  );
  assert.is(
    hex((writer) => writer.float64(2)),
    'cb4000000000000000',
    'whole seconds are floats too',
  );
  assert.is(
    hex((writer) => writer.str('type')),
    'a474797065',
  );
  assert.is(hex((writer) => writer.str('x'.repeat(32))).slice(0, 6), 'd92078');
  assert.is(
    hex((writer) => writer.bin(Buffer.from('0102', 'hex'))),
    'c4020102',
  );
  assert.is(
    hex((writer) => writer.array(2).int(1).nil()),
    '9201c0',
  );
  assert.is(
    hex((writer) => writer.map(1).str('a').int(1)),
    '81a16101',
  );
});

test('what was written is read back, whatever its size', () => {
  const check = <T>(arbitrary: fc.Arbitrary<T>, write: (writer: MsgpackWriter, value: T) => void) =>
    fc.assert(
      fc.property(arbitrary, (value) => {
        const writer = new MsgpackWriter();
        write(writer, value);
        assert.equal(unpack(writer.finish()), value);
      }),
      { seed: 1 },
    );
  check(fc.string({ unit: 'grapheme', maxLength: 400 }), (writer, text) => void writer.str(text));
  check(fc.array(fc.nat(), { maxLength: 3000 }), (writer, all) => {
    writer.array(all.length);
    for (const one of all) writer.int(one);
  });
  check(fc.bigInt({ min: 2n ** 32n, max: 2n ** 64n - 1n }), (writer, value) => void writer.int(value));
  check(
    fc.uint8Array({ maxLength: 70_000 }).map((bytes) => Buffer.from(bytes)),
    (writer, bytes) => void writer.bin(bytes),
  );
  const many = Array.from({ length: 70_000 }, (_, i) => i);
  const writer = new MsgpackWriter().array(many.length);
  for (const one of many) writer.int(one);
  assert.equal(unpack(writer.finish()), many);
});

test('a writer goes on after it has finished, and what it gave out stays as it was', () => {
  const writer = new MsgpackWriter();
  const first = writer.str('first').finish();
  const second = writer.str('second').finish();
  assert.is(unpack(first), 'first');
  assert.is(unpack(second), 'second');
});

test.run();
