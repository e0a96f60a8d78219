// Which format a file has, told from its first bytes, and who reads it.
import { closeSync, openSync, readSync } from 'node:fs';
import { messageOf, VllmPdError } from '../../errors.js';
import { readAzure } from './azure.js';
import { readBailian } from './bailian.js';
import { readBurstGpt } from './burstgpt.js';
import type { DatasetReader, Filetype } from './dataset.js';
import { JsonSplitter } from './json-records.js';
import { readMessages } from './messages.js';
import { readMooncake } from './mooncake.js';
import { readMtBench } from './mt-bench.js';
import { readShareGpt } from './sharegpt.js';

export const datasetReaders: Readonly<Record<Filetype, DatasetReader>> = {
  messages: readMessages,
  sharegpt: readShareGpt,
  'mt-bench': readMtBench,
  mooncake: readMooncake,
  bailian: readBailian,
  azure: readAzure,
  burstgpt: readBurstGpt,
};

/** A first record that is longer is nobody's. */
const maxSniffedBytes = 8 * 1024 ** 2;
const chunkBytes = 64 * 1024;

/** Null for what is none of the datasets, a workload file among them. BAD_FILE when it cannot be read. */
export function detectFiletype(file: string): Filetype | null {
  let splitter: JsonSplitter | null = null;
  let sniffed = 0;
  for (const chunk of beginning(file)) {
    if (sniffed === 0 && !/^\uFEFF?\s*[[{]/.test(chunk.toString('utf8'))) return filetypeOfHeader(chunk);
    splitter ??= new JsonSplitter(file);
    sniffed += chunk.length;
    try {
      const [first] = splitter.push(chunk);
      if (first) return filetypeOfRecord(first.value);
    } catch {
      return null;
    }
  }
  return null;
}

function filetypeOfRecord(record: object): Filetype | null {
  const fields = record as Readonly<Record<string, unknown>>;
  if ('name' in fields && 'conversations' in fields) return null;
  const isList = (name: string) => Array.isArray(fields[name]);
  if (isList('messages')) return 'messages';
  if (isList('conversations')) {
    const [first] = fields.conversations as readonly unknown[];
    return first === undefined || (first instanceof Object && 'from' in first) ? 'sharegpt' : null;
  }
  if (isList('turns')) return 'mt-bench';
  if ('parent_chat_id' in fields) return 'bailian';
  const hasLengths = 'input_length' in fields || 'input_tokens' in fields;
  return hasLengths && ('output_length' in fields || 'output_tokens' in fields) ? 'mooncake' : null;
}

function filetypeOfHeader(chunk: Buffer): Filetype | null {
  const [header = ''] = chunk
    .toString('utf8')
    .replace(/^\uFEFF/, '')
    .split('\n', 1);
  const columns = new Set(header.split(',').map((name) => name.trim().replaceAll('"', '')));
  if (columns.has('ContextTokens') && columns.has('GeneratedTokens')) return 'azure';
  return columns.has('Request tokens') && columns.has('Response tokens') ? 'burstgpt' : null;
}

function* beginning(file: string): Generator<Buffer> {
  let descriptor: number | null = null;
  try {
    descriptor = openSync(file, 'r');
    for (let at = 0; at < maxSniffedBytes; at += chunkBytes) {
      const chunk = Buffer.alloc(chunkBytes);
      const numRead = readSync(descriptor, chunk, 0, chunkBytes, at);
      if (numRead === 0) return;
      yield chunk.subarray(0, numRead);
    }
  } catch (cause) {
    throw new VllmPdError('BAD_FILE', `Cannot read ${file}: ${messageOf(cause)}.`, { cause });
  } finally {
    if (descriptor !== null) closeSync(descriptor);
  }
}
