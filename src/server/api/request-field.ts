// How a field of a request body is declared: what it takes, and how far it is supported. API.md's table says the same.
import { z } from 'zod';

export type Support = 'yes' | 'no effect' | 'refused';

export interface FieldInfo {
  readonly support: Support;
  readonly note: string;
}

/** Null is as good as absent, as with vLLM. */
export function field<Schema extends z.ZodType>(schema: Schema, note = '') {
  return schema.nullish().meta({ support: 'yes', note });
}

/** Asks for what this server does not do; null and false do not. */
export function refused(what: string) {
  return z
    .unknown()
    .refine((value) => value === null || value === false, { error: `nothing, as ${what} is not supported,` })
    .optional()
    .meta({ support: 'refused', note: what });
}

/** Accepted as vLLM accepts it, and without consequence. */
export function withoutEffect(note: string) {
  return z.unknown().optional().meta({ support: 'no effect', note });
}

/** What was declared; a field that was declared otherwise is a supported one. */
export function fieldInfo(schema: z.ZodType): FieldInfo {
  const { support = 'yes', note = '' } = (schema.meta() ?? {}) as Partial<FieldInfo>;
  return { support, note };
}
