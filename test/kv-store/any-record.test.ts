// A block's record in a store: what was put comes back bit for bit, and any damage makes it a miss.
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  chainIdOf,
  decodeChain,
  decodeRecord,
  encodeRecord,
  recordHeaderBytes,
} from '../../src/kv-store/block-record.js';

const limits = { numRuns: 300, interruptAfterTimeLimit: 8000, markInterruptAsFailure: false };

const hexDigits = fc
  .uint8Array({ minLength: 32, maxLength: 32 })
  .map((it) => Buffer.from(it).toString('hex'));
const block = fc.record({
  hash: hexDigits,
  chain: fc.string({ unit: 'binary', maxLength: 50 }),
  index: fc.nat(0xffff_ffff),
  data: fc.uint8Array({ maxLength: 300 }),
});

test('a record gives back the block and its place in the conversation', () => {
  fc.assert(
    fc.property(block, hexDigits, (put, namespace) => {
      const record = encodeRecord(put, namespace);
      const expected = { hash: put.hash, namespace, blockBytes: put.data.length };
      assert.equal([...decodeRecord(record, expected)!], [...put.data]);
      assert.equal(decodeChain(record), { chain: chainIdOf(put.chain), index: put.index });
    }),
    limits,
  );
});

// Fails when the checksum leaves out a byte of header or payload.
test('a record in which any byte is changed is a miss', () => {
  fc.assert(
    fc.property(block, hexDigits, fc.nat(), fc.integer({ min: 1, max: 255 }), (put, namespace, at, by) => {
      const record = encodeRecord(put, namespace);
      record[at % record.length]! ^= by;
      assert.is(decodeRecord(record, { hash: put.hash, namespace, blockBytes: put.data.length }), null);
      decodeChain(record);
    }),
    { ...limits, numRuns: 1000 },
  );
});

test('a record that is cut short or grew is a miss', () => {
  fc.assert(
    fc.property(
      block,
      hexDigits,
      fc.nat(),
      fc.uint8Array({ minLength: 1, maxLength: 50 }),
      (put, namespace, at, tail) => {
        const record = encodeRecord(put, namespace);
        const expected = { hash: put.hash, namespace, blockBytes: put.data.length };
        const cut = record.subarray(0, at % record.length);
        assert.is(decodeRecord(cut, expected), null);
        assert.is(decodeChain(cut) === null, cut.length < recordHeaderBytes);
        assert.is(decodeRecord(Buffer.concat([record, tail]), expected), null);
      },
    ),
    limits,
  );
});

test('a whole record of another block, namespace or size is a miss', () => {
  fc.assert(
    fc.property(block, hexDigits, hexDigits, (put, namespace, other) => {
      const record = encodeRecord(put, namespace);
      const expected = { hash: put.hash, namespace, blockBytes: put.data.length };
      if (other !== put.hash) assert.is(decodeRecord(record, { ...expected, hash: other }), null);
      if (other !== namespace) assert.is(decodeRecord(record, { ...expected, namespace: other }), null);
      assert.is(decodeRecord(record, { ...expected, blockBytes: put.data.length + 1 }), null);
    }),
    limits,
  );
});

test('noise is a miss', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), hexDigits, (noise, hash) => {
      const blockBytes = Math.max(0, noise.length - recordHeaderBytes);
      assert.is(decodeRecord(Buffer.from(noise), { hash, namespace: hash, blockBytes }), null);
      assert.is(decodeChain(Buffer.from(noise)), null);
    }),
    limits,
  );
});

test.run();
