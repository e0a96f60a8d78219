// Safetensors files: what is written is found again, and every kind of damage is named.
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readSafetensorsHeader } from '../../src/model/safetensors.js';
import { type TensorSource, writeSafetensors } from '../../src/model/safetensors-writer.js';
import { errorOf, withFolder } from './model-folders.js';

function fileOf(header: string | object, numDataBytes: number, headerLength?: bigint): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(headerLength ?? BigInt(json.length));
  return Buffer.concat([prefix, json, Buffer.alloc(numDataBytes)]);
}

const f32 = (shape: readonly number[], begin: number, end: number) => ({
  dtype: 'F32',
  shape,
  data_offsets: [begin, end],
});

const read = (bytes: Uint8Array) =>
  withFolder({ 'model.safetensors': bytes }, (folder) =>
    readSafetensorsHeader(path.join(folder, 'model.safetensors')),
  );

test('a header gives each tensor its place in the file', async () => {
  const header = { __metadata__: { format: 'pt' }, b: f32([2, 3], 4, 28), a: f32([], 0, 4) };
  const bytes = fileOf(header, 28);
  const entries = await read(bytes);
  const dataStart = bytes.length - 28;
  assert.equal(
    entries.map(({ name, shape, offset, length }) => [name, shape, offset - dataStart, length]),
    [
      ['b', [2, 3], 4, 24],
      ['a', [], 0, 4],
    ],
  );
});

test('a key that occurs deeper down is no duplicate, nor is a name that needs escapes', async () => {
  const header = `{"shape":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"q\\"{[":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`;
  assert.equal(
    (await read(fileOf(header, 2))).map(({ name }) => name),
    ['shape', 'q"{['],
  );
});

const good = { a: f32([2], 0, 8), b: f32([2], 8, 16) };

const damaged: readonly (readonly [what: string, bytes: Buffer, message: RegExp])[] = [
  ['an empty file', Buffer.alloc(0), /has 0 bytes, too few/],
  ['a file of 7 bytes', Buffer.alloc(7), /too few/],
  ['a header longer than the file', fileOf(good, 16, 5000n), /claims a header of 5000 bytes/],
  ['a header of 2^64 - 1 bytes', fileOf(good, 16, 2n ** 64n - 1n), /claims a header of 18446744073709551615/],
  ['a header that is no JSON', fileOf('{"a":', 0), /not valid JSON/],
  ['a header that is a list', fileOf('[1]', 0), /not a JSON object/],
  ['a truncated file', fileOf(good, 16).subarray(0, -1), /inside or before tensor 'b'/],
  ['offsets beyond the file', fileOf({ a: f32([4], 800, 816) }, 16), /inside or before tensor 'a'/],
  ['offsets that run backwards', fileOf({ a: f32([2], 8, 0) }, 8), /tensor 'a' has -8 bytes/],
  ['negative offsets', fileOf({ a: f32([2], -8, 0) }, 8), /tensor 'a', field 'data_offsets.0'/],
  ['overlapping tensors', fileOf({ a: f32([2], 0, 8), b: f32([2], 4, 12) }, 12), /'b' overlaps/],
  ['a gap between tensors', fileOf({ a: f32([2], 0, 8), b: f32([2], 12, 20) }, 20), /gap before tensor 'b'/],
  ['bytes that belong to no tensor', fileOf(good, 20), /4 bytes that belong to no tensor/],
  ['a length that is not shape × dtype', fileOf({ a: f32([3], 0, 8) }, 8), /F32 \[3\] takes 12/],
  ['an unknown dtype', fileOf({ a: { ...good.a, dtype: 'Q4' } }, 8), /'a' has the unknown dtype 'Q4'/],
  ['a shape that is no list', fileOf({ a: { ...good.a, shape: 2 } }, 8), /tensor 'a', field 'shape'/],
  ['a fraction in the shape', fileOf({ a: { ...good.a, shape: [0.5] } }, 8), /tensor 'a', field 'shape.0'/],
  [
    'a shape beyond all numbers',
    fileOf({ a: { ...good.a, shape: [1e9, 1e9] } }, 8),
    /tensor 'a' has 8 bytes/,
  ],
  ['a tensor without offsets', fileOf({ a: { dtype: 'F32', shape: [] } }, 0), /field 'data_offsets'/],
  [
    'a tensor that is listed twice',
    fileOf(`{"a":${JSON.stringify(good.a)},"\\u0061":${JSON.stringify(good.a)}}`, 8),
    /lists tensor 'a' twice/,
  ],
];

for (const [what, bytes, message] of damaged) {
  test(`${what} is refused with a sentence`, async () => {
    const error = await errorOf(() => read(bytes));
    assert.is(error.code, 'BAD_FILE');
    assert.match(error.message, message);
    assert.match(error.message, 'model.safetensors');
  });
}

test('a file that is missing is refused by name', async () => {
  const error = await errorOf(() => readSafetensorsHeader('/nowhere/model.safetensors'));
  assert.is(error.code, 'BAD_FILE');
});

const tensor = (name: string, bytes: readonly number[]): TensorSource => ({
  name,
  dtype: 'U8',
  shape: [bytes.length],
  chunks: () => bytes.map((byte) => Uint8Array.of(byte)),
});

test('what the writer writes is what the reader finds, aligned to 8 bytes', () =>
  withFolder({}, async (folder) => {
    const file = path.join(folder, 'w.safetensors');
    const progress: number[] = [];
    await writeSafetensors(file, [tensor('x', [1, 2, 3]), tensor('y', [4])], (bytes) => progress.push(bytes));
    const bytes = await readFile(file);
    const entries = await readSafetensorsHeader(file);
    assert.is(entries[0]!.offset % 8, 0);
    const contents = entries.map(({ name, offset, length }) => [
      name,
      ...bytes.subarray(offset, offset + length),
    ]);
    assert.equal(contents, [
      ['x', 1, 2, 3],
      ['y', 4],
    ]);
    assert.is(progress.at(-1), bytes.length);
  }));

test('a write that fails leaves nothing behind', () =>
  withFolder({}, async (folder) => {
    const failing: TensorSource = {
      ...tensor('y', [4]),
      chunks: () => {
        throw new Error('no more');
      },
    };
    const write = writeSafetensors(path.join(folder, 'w.safetensors'), [tensor('x', [1]), failing]);
    assert.match(await write.then(() => 'done', String), 'no more');
    assert.equal(await readdir(folder), []);
  }));

test.run();
