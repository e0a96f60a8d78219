// A record of a dataset against its schema, with a sentence that says where it is not what it should be.
import type { z } from 'zod';
import { VllmPdError } from '../../errors.js';
import type { JsonRecord } from './json-records.js';

/** BAD_FILE naming file, line and field. */
export function checkRecord<T extends z.ZodType>(schema: T, record: JsonRecord, file: string): z.infer<T> {
  const result = schema.safeParse(record.value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const field = issue.path.join('.') || 'the whole record';
  const message = `${file}, line ${record.line}, ${field}: ${issue.message}.`;
  throw new VllmPdError('BAD_FILE', message, { param: field, cause: result.error });
}
