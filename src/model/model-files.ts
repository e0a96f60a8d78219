// The JSON files of a model folder: read whole, refused with the file's name.
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import type { z } from 'zod';
import { hasCode, messageOf, VllmPdError } from '../errors.js';

/** The file's text, or undefined if the folder has no such file. */
export async function readTextFile(modelPath: string, name: string): Promise<string | undefined> {
  try {
    return await readFile(path.join(modelPath, name), 'utf8');
  } catch (error) {
    if (hasCode(error, 'ENOENT') || hasCode(error, 'ENOTDIR')) return undefined;
    throw new VllmPdError('BAD_FILE', `Cannot read ${path.join(modelPath, name)}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** The parsed file, or undefined if the folder has no such file. Throws BAD_FILE if it is not JSON. */
export async function readJsonFile(modelPath: string, name: string): Promise<unknown> {
  const text = await readTextFile(modelPath, name);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw badFile(modelPath, name, `is not valid JSON (${messageOf(error)})`, error);
  }
}

/** `value` as the schema's type; throws BAD_FILE naming the first field that does not fit. */
export function parseAs<T>(schema: z.ZodType<T>, value: unknown, modelPath: string, name: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const field = issue.path.join('.');
  throw badFile(modelPath, name, field === '' ? issue.message : `field '${field}': ${issue.message}`);
}

export function badFile(modelPath: string, name: string, what: string, cause?: unknown): VllmPdError {
  return new VllmPdError('BAD_FILE', `${path.join(modelPath, name)}: ${what}`, { cause });
}

/** Throws NOT_FOUND if nothing is there, BAD_FILE if what is there holds no `config.json`. */
export async function checkIsModelFolder(modelPath: string): Promise<void> {
  const found = await stat(modelPath).catch(() => null);
  if (!found) throw new VllmPdError('NOT_FOUND', `There is no model folder at ${modelPath}.`);
  const hasConfig = await stat(path.join(modelPath, 'config.json')).catch(() => null);
  if (!found.isDirectory() || !hasConfig) {
    throw new VllmPdError('BAD_FILE', `${modelPath} is not a model folder: it has no config.json.`, {
      suggestions: ['A model folder holds config.json, tokenizer.json and model.safetensors.'],
    });
  }
}
