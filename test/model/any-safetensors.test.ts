// A safetensors header of any kind is BAD_FILE, or lists tensors that lie inside the file, without gap or overlap.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import {
  bytesPerElement,
  readSafetensorsHeader,
  type SafetensorsEntry,
} from '../../src/model/safetensors.js';

const limits = { numRuns: 200, interruptAfterTimeLimit: 12_000, markInterruptAsFailure: false };
const folder = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-safetensors-'));
const file = path.join(folder, 'model.safetensors');

/** Null where the file is refused. */
async function entriesOf(contents: Uint8Array): Promise<SafetensorsEntry[] | null> {
  writeFileSync(file, contents);
  try {
    return await readSafetensorsHeader(file);
  } catch (error) {
    if (error instanceof VllmPdError && error.code === 'BAD_FILE') return null;
    throw error;
  }
}

function checkCovered(entries: readonly SafetensorsEntry[], fileBytes: number): void {
  const numBytes = entries.reduce((sum, { length }) => sum + length, 0);
  const dataStart = Math.min(fileBytes, ...entries.map(({ offset }) => offset));
  for (const { offset, length } of entries) assert.ok(offset >= 0 && offset + length <= fileBytes);
  assert.is(dataStart + numBytes, fileBytes);
}

function fileOf(header: string, dataBytes: number): Buffer {
  const text = Buffer.from(header);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([prefix, text, Buffer.alloc(dataBytes, 1)]);
}

const tensor = fc.record(
  {
    dtype: fc.constantFrom(...Object.keys(bytesPerElement)),
    shape: fc.array(fc.nat(5), { maxLength: 3 }),
  },
  { noNullPrototype: true },
);
/** Some full of what JSON escapes. */
const name = fc
  .oneof(
    fc.string({ unit: 'binary', minLength: 1, maxLength: 20 }),
    fc.string({ unit: fc.constantFrom(...'"\\{}[]:a '), minLength: 1, maxLength: 8 }),
  )
  .filter((it) => !/^__/.test(it));

/** A whole file, and its tensors' names. */
const whole = fc
  .uniqueArray(fc.tuple(name, tensor), { maxLength: 5, selector: ([it]) => it })
  .map((tensors) => {
    let end = 0;
    const entries = tensors.map(([own, { dtype, shape }]) => {
      const begin = end;
      end += shape.reduce((product, size) => product * size, 1) * bytesPerElement[dtype]!;
      return [own, { dtype, shape, data_offsets: [begin, end] }] as const;
    });
    return {
      names: tensors.map(([own]) => own).sort(),
      contents: fileOf(JSON.stringify(Object.fromEntries(entries)), end),
    };
  });

test('a whole file lists its tensors', async () => {
  await fc.assert(
    fc.asyncProperty(whole, async ({ names, contents }) => {
      const entries = await entriesOf(contents);
      assert.equal(entries?.map((entry) => entry.name).sort(), names);
      checkCovered(entries!, contents.length);
    }),
    limits,
  );
});

test('a damaged or cut file is refused, or what it lists lies inside of it', async () => {
  const change = fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 }));
  await fc.assert(
    fc.asyncProperty(
      whole,
      fc.array(change, { maxLength: 3 }),
      fc.option(fc.nat()),
      async (good, changes, cut) => {
        const contents = Buffer.from(good.contents);
        for (const [at, by] of changes) contents[at % contents.length]! ^= by;
        const left = cut === null ? contents : contents.subarray(0, cut % contents.length);
        const entries = await entriesOf(left);
        if (entries !== null) checkCovered(entries, left.length);
      },
    ),
    limits,
  );
});

test('a header of any JSON, and any numbers for shapes and offsets, are refused or lie inside the file', async () => {
  const number = fc.oneof(fc.nat(8), fc.maxSafeNat(), fc.double(), fc.constantFrom(-1, 2 ** 53, 1e308));
  const hostile = fc.record(
    {
      dtype: fc.constantFrom('F32', 'U8', 'I9'),
      shape: fc.array(number, { maxLength: 4 }),
      data_offsets: fc.tuple(number, number),
    },
    { noNullPrototype: true },
  );
  const header = fc.oneof(
    fc.jsonValue(),
    fc.dictionary(name, hostile, { maxKeys: 3, noNullPrototype: true }),
  );
  await fc.assert(
    fc.asyncProperty(header, fc.nat(64), async (json, dataBytes) => {
      const contents = fileOf(JSON.stringify(json), dataBytes);
      const entries = await entriesOf(contents);
      if (entries !== null && entries.length > 0) checkCovered(entries, contents.length);
    }),
    limits,
  );
});

test('a header with a name of many megabytes is read', async () => {
  const long = 'n'.repeat(12_000_000);
  const header = JSON.stringify({ [long]: { dtype: 'U8', shape: [1], data_offsets: [0, 1] } });
  const entries = await entriesOf(fileOf(header, 1));
  assert.is(entries?.[0]?.name.length, long.length);
});

test('a name that stands there twice is found, however it is escaped', async () => {
  await fc.assert(
    fc.asyncProperty(name, async (twice) => {
      const entry = JSON.stringify({ dtype: 'U8', shape: [0], data_offsets: [0, 0] });
      const escaped = [...twice].map((it) =>
        it.length === 1 ? `\\u${it.charCodeAt(0).toString(16).padStart(4, '0')}` : it,
      );
      const header = `{${JSON.stringify(twice)} : ${entry}, "${escaped.join('')}":${entry}}`;
      assert.is(await entriesOf(fileOf(header, 0)), null);
    }),
    limits,
  );
});

test.after(() => rmSync(folder, { recursive: true }));

test.run();
