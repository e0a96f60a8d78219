// Request bodies: checked against a zod schema, refused with a sentence that names the field.
import type { z } from 'zod';
import { VllmPdError } from '../../errors.js';

/** Text of a value in an error message, cut where it gets long. */
function show(value: unknown): string {
  const text = value === undefined ? 'nothing' : (JSON.stringify(value) ?? String(value));
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

function valueAt(body: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (value, key) => (typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined),
    body,
  );
}

/** What a field was expected to be, from what zod found wrong. */
function expectation(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return article(
        issue.expected === 'int' ? 'integer' : issue.expected === 'array' ? 'list' : issue.expected,
      );
    case 'too_small':
      return bound(issue.origin, issue.inclusive ? 'at least' : 'more than', issue.minimum);
    case 'too_big':
      return bound(issue.origin, issue.inclusive ? 'at most' : 'less than', issue.maximum);
    case 'invalid_value':
      // zod's own words begin so; ours say more.
      return issue.message.startsWith('Invalid') ? issue.values.map(show).join(' or ') : issue.message;
    case 'invalid_key':
      return issue.issues[0]?.message ?? issue.message;
    default:
      return issue.message;
  }
}

function article(noun: string): string {
  return `${/^[aeiou]/.test(noun) ? 'an' : 'a'} ${noun}`;
}

function bound(origin: string, relation: string, limit: number | bigint): string {
  if (origin === 'string') return `a string of ${relation} ${limit} characters`;
  if (origin === 'array') return `a list of ${relation} ${limit} entries`;
  return `a number of ${relation} ${limit}`;
}

/** Throws INVALID_ARGUMENT whose `param` is the path of the first field that does not fit, e.g. `messages.0.role`. */
export function parseBody<Schema extends z.ZodType>(schema: Schema, body: unknown): z.output<Schema> {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new VllmPdError('INVALID_ARGUMENT', `Expected a JSON object as body but received ${show(body)}.`);
  }
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const param = issue.path.join('.');
  const message = `Expected ${expectation(issue)} for \`${param}\` but received ${show(valueAt(body, issue.path))}.`;
  throw new VllmPdError('INVALID_ARGUMENT', message, { param });
}
