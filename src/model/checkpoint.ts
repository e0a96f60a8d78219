// The weights of a model folder: one safetensors file, or shards named by an index; matched against config.json.
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { VllmPdError } from '../errors.js';
import type { TensorDtype, TensorLocation } from '../native/model-config.js';
import { badFile, parseAs, readJsonFile } from './model-files.js';
import type { TensorSpec } from './model-tensors.js';
import { readSafetensorsHeader, type SafetensorsEntry } from './safetensors.js';
import { partsOf, type StoredConfig, storedTensors } from './stored-tensors.js';

const singleName = 'model.safetensors';
const indexName = 'model.safetensors.index.json';

const indexSchema = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

const dtypes: readonly string[] = ['F32', 'BF16', 'F16'] satisfies TensorDtype[];

/**
 * Where each tensor that the forward pass needs lies, parts of fused ones included. Tensors beyond these are
 * ignored. Throws BAD_FILE naming the tensor that is missing or has another shape or dtype than expected.
 */
export async function readCheckpoint(modelPath: string, config: StoredConfig): Promise<TensorLocation[]> {
  const entries = await readEntries(modelPath);
  const byName = new Map(entries.map((entry) => [entry.name, entry]));
  return storedTensors(config).flatMap((stored) =>
    partsOf(match(modelPath, stored, byName.get(stored.name)), stored),
  );
}

/** Whether the folder holds safetensors at all, whole or not. */
export async function hasCheckpoint(modelPath: string): Promise<boolean> {
  const files = await Promise.all(
    [singleName, indexName].map((name) => stat(path.join(modelPath, name)).catch(() => null)),
  );
  return files.some((file) => file !== null);
}

async function readEntries(modelPath: string): Promise<SafetensorsEntry[]> {
  const single = path.join(modelPath, singleName);
  if (await stat(single).catch(() => null)) return readSafetensorsHeader(single);
  const index = await readJsonFile(modelPath, indexName);
  if (index === undefined) {
    throw new VllmPdError(
      'BAD_FILE',
      `${modelPath} holds no weights: neither ${singleName} nor ${indexName}.`,
      { suggestions: ['Weights in other formats (.bin, .gguf) have to be converted to safetensors first.'] },
    );
  }
  return readShards(modelPath, parseAs(indexSchema, index, modelPath, indexName).weight_map);
}

async function readShards(
  modelPath: string,
  weightMap: Readonly<Record<string, string>>,
): Promise<SafetensorsEntry[]> {
  const shards = new Map<string, ReadonlyMap<string, SafetensorsEntry>>();
  for (const file of new Set(Object.values(weightMap))) {
    if (path.basename(file) !== file || file === '..') {
      throw badFile(modelPath, indexName, `names the shard '${file}', which is not a plain file name`);
    }
    const entries = await readSafetensorsHeader(path.join(modelPath, file));
    shards.set(file, new Map(entries.map((entry) => [entry.name, entry])));
  }
  return Object.entries(weightMap).map(([name, file]) => {
    const entry = shards.get(file)!.get(name);
    if (!entry) throw badFile(modelPath, indexName, `looks for tensor '${name}' in ${file}, which lacks it`);
    return entry;
  });
}

function match(modelPath: string, spec: TensorSpec, entry: SafetensorsEntry | undefined): TensorLocation {
  const refuse = (what: string) => new VllmPdError('BAD_FILE', `${entry?.path ?? modelPath}: ${what}.`);
  if (!entry) throw refuse(`tensor '${spec.name}' is missing, but config.json asks for it`);
  if (entry.shape.join() !== spec.shape.join()) {
    const shapes = `[${entry.shape.join(', ')}], but config.json asks for [${spec.shape.join(', ')}]`;
    throw refuse(`tensor '${spec.name}' has shape ${shapes}`);
  }
  if (!isSupported(entry)) {
    throw refuse(
      `tensor '${spec.name}' has dtype ${entry.dtype}, but only ${dtypes.join(', ')} are supported`,
    );
  }
  return entry;
}

function isSupported(entry: SafetensorsEntry): entry is SafetensorsEntry & { dtype: TensorDtype } {
  return dtypes.includes(entry.dtype);
}
