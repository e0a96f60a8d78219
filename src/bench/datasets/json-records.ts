// Objects of a JSON file one by one: lines of JSON, or the elements of one large list. Holds one object at a time.
import { createReadStream } from 'node:fs';
import { messageOf, VllmPdError } from '../../errors.js';

export interface JsonRecord {
  readonly value: object;
  /** Where it begins, from 1. */
  readonly line: number;
}

/** A conversation of more bytes than this is no conversation. */
const maxRecordBytes = 64 * 1024 ** 2;

const [quote, backslash, openBrace, closeBrace] = [0x22, 0x5c, 0x7b, 0x7d];
const [openBracket, closeBracket, comma, newline] = [0x5b, 0x5d, 0x2c, 0x0a];
const isSpace = (byte: number) => byte === 0x20 || byte === newline || byte === 0x0d || byte === 0x09;

/** Cuts bytes at the borders of objects; what lies inside is left to JSON.parse. */
export class JsonSplitter {
  readonly #file: string;
  #line = 1;
  #isList: boolean | null = null;
  #listEnded = false;
  #depth = 0;
  #inString = false;
  #escaped = false;
  /** Of the object under way. */
  #startLine = 1;
  #parts: Buffer[] = [];
  #numBytes = 0;

  constructor(file: string) {
    this.#file = file;
  }

  /** One at a time, so that what nobody asks for is not parsed. BAD_FILE for anything that is neither. */
  *push(chunk: Buffer): Generator<JsonRecord> {
    let start = 0;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i]!;
      if (byte === newline) this.#line++;
      if (this.#depth === 0) {
        if (!this.#between(byte)) continue;
        start = i;
        this.#startLine = this.#line;
        this.#depth = 1;
      } else if (this.#closes(byte)) {
        this.#keep(chunk.subarray(start, i + 1));
        yield this.#finish();
      }
    }
    if (this.#depth > 0) this.#keep(Buffer.from(chunk.subarray(start)));
  }

  end(): void {
    if (this.#depth > 0) throw this.#fault(this.#startLine, 'the file ends in the middle of this object');
    if (this.#isList && !this.#listEnded) throw this.#fault(this.#line, "the list lacks its closing ']'");
  }

  /** Outside of any object: true where one begins. */
  #between(byte: number): boolean {
    // A byte order mark is no part of the text.
    if (isSpace(byte) || (this.#line === 1 && byte >= 0xbb)) return false;
    if (byte === openBracket && this.#isList === null) {
      this.#isList = true;
      return false;
    }
    if (this.#isList && !this.#listEnded && (byte === comma || byte === closeBracket)) {
      this.#listEnded = byte === closeBracket;
      return false;
    }
    if (byte !== openBrace || this.#listEnded) {
      throw this.#fault(this.#line, `expected an object but received '${String.fromCharCode(byte)}'`);
    }
    this.#isList ??= false;
    return true;
  }

  /** Inside of an object: true at its last byte. */
  #closes(byte: number): boolean {
    if (this.#inString) {
      if (this.#escaped) this.#escaped = false;
      else if (byte === backslash) this.#escaped = true;
      else if (byte === quote) this.#inString = false;
      return false;
    }
    if (byte === quote) this.#inString = true;
    else if (byte === openBrace || byte === openBracket) this.#depth++;
    else if (byte === closeBrace || byte === closeBracket) return --this.#depth === 0;
    return false;
  }

  #keep(bytes: Buffer): void {
    this.#parts.push(bytes);
    this.#numBytes += bytes.length;
    if (this.#numBytes <= maxRecordBytes) return;
    throw this.#fault(this.#startLine, `expected an object of at most ${maxRecordBytes} bytes`);
  }

  #finish(): JsonRecord {
    const text = Buffer.concat(this.#parts).toString('utf8');
    this.#parts = [];
    this.#numBytes = 0;
    try {
      return { value: JSON.parse(text) as object, line: this.#startLine };
    } catch (cause) {
      throw this.#fault(this.#startLine, messageOf(cause), cause);
    }
  }

  #fault(line: number, what: string, cause?: unknown): VllmPdError {
    return new VllmPdError('BAD_FILE', `${this.#file}, line ${line}: ${what}.`, { cause });
  }
}

/** Every object of the file; BAD_FILE when it cannot be read or is not such a file. */
export async function* readJsonRecords(file: string): AsyncGenerator<JsonRecord> {
  const splitter = new JsonSplitter(file);
  for await (const chunk of bytesOf(file)) yield* splitter.push(chunk);
  splitter.end();
}

async function* bytesOf(file: string): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of createReadStream(file, { highWaterMark: 1024 ** 2 })) yield chunk as Buffer;
  } catch (cause) {
    throw new VllmPdError('BAD_FILE', `Cannot read ${file}: ${messageOf(cause)}.`, { cause });
  }
}
