// Lines of a CSV file one by one, as objects by the names of its header.
import { createReadStream } from 'node:fs';
import { CsvError, parse } from 'csv-parse';
import { messageOf, VllmPdError } from '../../errors.js';

export interface CsvRecord {
  readonly fields: Readonly<Record<string, string>>;
  /** From 1, the header included. */
  readonly line: number;
}

interface Parsed {
  readonly record: Readonly<Record<string, string>>;
  readonly info: { readonly lines: number };
}

/** BAD_FILE naming the line for what is no CSV, or has more or fewer columns than the header. */
export async function* readCsvRecords(file: string): AsyncGenerator<CsvRecord> {
  const input = createReadStream(file);
  const parser = parse({ bom: true, columns: true, info: true, skip_empty_lines: true, trim: true });
  input.on('error', (error) => parser.destroy(error));
  try {
    for await (const { record, info } of input.pipe(parser) as AsyncIterable<Parsed>) {
      yield { fields: record, line: info.lines };
    }
  } catch (cause) {
    if (cause instanceof VllmPdError) throw cause;
    const line = cause instanceof CsvError && typeof cause.lines === 'number' ? `, line ${cause.lines}` : '';
    throw new VllmPdError('BAD_FILE', `${file}${line}: ${messageOf(cause)}.`, { cause });
  } finally {
    input.destroy();
    parser.destroy();
  }
}

/** A whole number of tokens in a named column; BAD_FILE naming file, line and column. */
export function tokensIn(file: string, { fields, line }: CsvRecord, column: string): number {
  const text = fields[column];
  if (text !== undefined && /^\d{1,9}(\.0+)?$/.test(text)) return Number(text);
  const received = text === undefined ? 'no such column' : `'${text}'`;
  throw new VllmPdError(
    'BAD_FILE',
    `${file}, line ${line}, ${column}: expected a number of tokens but received ${received}.`,
    { param: column },
  );
}
