// What a user calls a model → its folder; the embedded models are made on first use and kept in the user's cache.
import { stat } from 'node:fs/promises';
import path from 'node:path';
import type { BackendChoice } from '../config.js';
import { VllmPdError } from '../errors.js';
import { cacheFolder } from './cache-folder.js';
import { type ArchitectureName, architectureNames, createModelFolder } from './default-model.js';
import { checkIsModelFolder } from './model-files.js';
import { exportOnnx } from './onnx-export.js';

/** Raised when the files of an embedded model change, so that an older cache is not taken for the new one. */
const version = 1;
const seed = 0;

export interface ResolveOptions {
  /** An embedded model gets what this backend reads. */
  readonly backend?: BackendChoice | undefined;
  /** Told how much of an embedded model, in [0, 1], is made; never called if it is there already. */
  readonly onProgress?: (fraction: number) => void;
}

/**
 * `default`, `tiny` or the path of a model folder → the folder's absolute path. A folder in the current directory that
 * is called like an embedded model is reached as `./default`. Throws NOT_FOUND or BAD_FILE.
 */
export async function resolveModel(nameOrPath: string, options: ResolveOptions = {}): Promise<string> {
  const arch = architectureNames.find((name) => name === nameOrPath);
  if (arch) return cachedModel(arch, options);
  const folder = path.resolve(nameOrPath);
  if (!(await stat(folder).catch(() => null))) {
    throw new VllmPdError(
      'NOT_FOUND',
      `There is no model '${nameOrPath}': expected ${architectureNames.join(', ')} or the path of a model folder.`,
      { param: 'model', suggestions: ['Make one with `vllm-pd model create FOLDER`.'] },
    );
  }
  await checkIsModelFolder(folder);
  return folder;
}

async function cachedModel(arch: ArchitectureName, { backend, ...options }: ResolveOptions): Promise<string> {
  const folder = path.join(cacheFolder(), 'models', `${arch}-${seed}-v${version}`);
  await createModelFolder(folder, { arch, seed, ...options });
  if (backend === 'onnx') await exportOnnx(folder, options.onProgress);
  return folder;
}
