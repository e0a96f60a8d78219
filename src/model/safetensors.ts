// Safetensors headers: where each tensor of a file lies, with every claim checked against the file's length.
import { type FileHandle, open } from 'node:fs/promises';
import { z } from 'zod';
import { messageOf, VllmPdError } from '../errors.js';
import { numElements } from './model-tensors.js';

/** A tensor as its file describes it; `dtype` is any that the format knows. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly path: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Byte offset in the file, and length in bytes. */
  readonly offset: number;
  readonly length: number;
}

export const bytesPerElement: Readonly<Record<string, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
};

/** The limit of the reference implementation, in bytes. */
const maxHeaderLength = 100_000_000;

const natural = z.int().min(0);

const tensorSchema = z.object({
  dtype: z.string(),
  shape: z.array(natural),
  data_offsets: z.tuple([natural, natural]),
});

/** Reads the header of one file. Throws BAD_FILE naming the file and, where there is one, the tensor at fault. */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsEntry[]> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    throw bad(path, `cannot be opened (${messageOf(error)})`, error);
  }
  try {
    const { size } = await file.stat();
    const { text, dataStart } = await readHeaderText(file, path, size);
    const entries = parseHeader(path, text, dataStart);
    checkLayout(path, entries, dataStart, size);
    return entries;
  } finally {
    await file.close();
  }
}

async function readHeaderText(file: FileHandle, path: string, fileSize: number) {
  if (fileSize < 8) throw bad(path, `has ${fileSize} bytes, too few for a safetensors file`);
  const prefix = Buffer.alloc(8);
  await file.read(prefix, 0, 8, 0);
  const length = prefix.readBigUInt64LE();
  if (length > maxHeaderLength || 8n + length > BigInt(fileSize)) {
    const limit = Math.min(maxHeaderLength, fileSize - 8);
    throw bad(path, `claims a header of ${length} bytes, but at most ${limit} are possible`);
  }
  const header = Buffer.alloc(Number(length));
  const { bytesRead } = await file.read(header, 0, header.length, 8);
  if (bytesRead !== header.length) throw bad(path, 'ends inside its header');
  return { text: header.toString('utf8'), dataStart: 8 + header.length };
}

function parseHeader(path: string, text: string, dataStart: number): SafetensorsEntry[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw bad(path, `has a header that is not valid JSON (${messageOf(error)})`, error);
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw bad(path, 'has a header that is not a JSON object');
  }
  const duplicate = firstDuplicate(topLevelKeys(text));
  if (duplicate !== undefined) throw bad(path, `lists tensor '${duplicate}' twice`);
  return Object.entries(json)
    .filter(([name]) => name !== '__metadata__')
    .map(([name, value]) => parseEntry(path, name, value, dataStart));
}

function parseEntry(path: string, name: string, value: unknown, dataStart: number): SafetensorsEntry {
  const parsed = tensorSchema.safeParse(value);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw bad(path, `tensor '${name}', field '${issue.path.join('.')}': ${issue.message}`);
  }
  const { dtype, shape } = parsed.data;
  const [begin, end] = parsed.data.data_offsets;
  const elementSize = bytesPerElement[dtype];
  if (elementSize === undefined) throw bad(path, `tensor '${name}' has the unknown dtype '${dtype}'`);
  const wanted = numElements(shape) * elementSize;
  if (end - begin !== wanted) {
    const what = `tensor '${name}' has ${end - begin} bytes, but ${dtype} [${shape.join(', ')}] takes ${wanted}`;
    throw bad(path, what);
  }
  return { name, path, dtype, shape, offset: dataStart + begin, length: wanted };
}

/** The format wants the tensors to cover the rest of the file exactly, without gap or overlap. */
function checkLayout(
  path: string,
  entries: readonly SafetensorsEntry[],
  dataStart: number,
  fileSize: number,
): void {
  let covered = dataStart;
  for (const entry of [...entries].sort((a, b) => a.offset - b.offset || a.length - b.length)) {
    const end = entry.offset + entry.length;
    if (end > fileSize) {
      throw bad(path, `ends at byte ${fileSize}, inside or before tensor '${entry.name}' (truncated?)`);
    }
    if (entry.offset < covered) throw bad(path, `tensor '${entry.name}' overlaps the one before it`);
    if (entry.offset > covered) throw bad(path, `has a gap before tensor '${entry.name}'`);
    covered = end;
  }
  if (covered !== fileSize) throw bad(path, `has ${fileSize - covered} bytes that belong to no tensor`);
}

/** Keys at depth 1 of a valid JSON object as written, duplicates included; JSON.parse would keep only the last. */
function topLevelKeys(json: string): string[] {
  const keys: string[] = [];
  const colon = /\s*:/y;
  let depth = 0;
  for (let at = 0; at < json.length; at++) {
    const character = json[at];
    if (character === '{' || character === '[') depth++;
    else if (character === '}' || character === ']') depth--;
    else if (character === '"') {
      const end = endOfString(json, at);
      colon.lastIndex = end;
      if (depth === 1 && colon.test(json)) keys.push(JSON.parse(json.slice(at, end)));
      at = end - 1;
    }
  }
  return keys;
}

/** Behind the string that begins at `at`. Metadata may be strings of megabytes, which exhaust a regular expression's stack. */
function endOfString(json: string, at: number): number {
  let end = json.indexOf('"', at + 1);
  while (numBackslashesBefore(json, end) % 2 === 1) end = json.indexOf('"', end + 1);
  return end + 1;
}

function numBackslashesBefore(json: string, at: number): number {
  let count = 0;
  while (json[at - 1 - count] === '\\') count++;
  return count;
}

function firstDuplicate(keys: readonly string[]): string | undefined {
  const seen = new Set<string>();
  return keys.find((key) => seen.size === seen.add(key).size);
}

function bad(path: string, what: string, cause?: unknown): VllmPdError {
  return new VllmPdError('BAD_FILE', `${path} ${what}.`, { cause });
}
