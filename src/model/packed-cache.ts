// Where a model's packed weights are kept between starts, and what they are called.
import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import path from 'node:path';
import type { NativeWeights, PackedCache, TensorLocation } from '../native/model-config.js';
import { cacheFolder } from './cache-folder.js';

/** Packing fewer bytes than this takes less time than looking for a file. */
const minBytes = 16 * 2 ** 20;

/**
 * Beside the model, or in the user's cache when the folder cannot be written to. One file for each type of weights: a
 * changed checkpoint replaces it. Undefined for small models.
 */
export async function packedCache(
  modelPath: string,
  tensors: readonly TensorLocation[],
  { dtype, quantization }: NativeWeights,
): Promise<PackedCache | undefined> {
  if (tensors.reduce((sum, { length }) => sum + length, 0) < minBytes) return undefined;
  const hash = createHash('sha256');
  for (const { name, path: file, shape, offset, dtype: stored } of tensors) {
    hash.update(JSON.stringify([name, path.basename(file), shape, offset, stored]));
  }
  for (const file of new Set(tensors.map((tensor) => tensor.path))) {
    const { size, mtimeMs } = await stat(file);
    hash.update(JSON.stringify([path.basename(file), size, mtimeMs]));
  }
  const folder = path.resolve(modelPath);
  const folderName = createHash('sha256').update(folder).digest('hex').slice(0, 32);
  const file = `${quantization ?? 'none'}-${dtype}.packed`;
  return {
    key: `${hash.digest('hex')} ${dtype} ${quantization ?? 'none'}`,
    paths: [path.join(folder, '.vllm-pd', file), path.join(cacheFolder(), 'packed', folderName, file)],
  };
}
