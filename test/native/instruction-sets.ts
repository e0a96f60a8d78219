// All instruction sets that there are kernels for, so that a test can run them all: those that this machine lacks are
// emulated, by a build of the native module that has both.
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { KvCacheDtype } from '../../src/config.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import type { NativeModel } from '../../src/native/model.js';
import type { NativeModelConfig, NativeWeights } from '../../src/native/model-config.js';
import { loadNative, loadNativeFrom, type Native } from '../../src/native.js';
import { packageRoot } from '../../src/version.js';
import { createPool, type RandomModel } from './random-model.js';

const known = ['portable', 'avx2', 'avx512', 'avx512_vnni', 'avx512_bf16', 'amx'];
const reported = new Set<string>();
let both: Native | undefined;

function nativeOfAll(): Native {
  const file = path.join(packageRoot, 'build', 'emulated', 'vllm_pd.node');
  both ??= existsSync(file) ? loadNativeFrom(file) : loadNative();
  return both;
}

export function emulated(isa: string): string {
  return `emulated_${isa}`;
}

export function isEmulated(isa: string): boolean {
  return isa.startsWith(emulated(''));
}

/** VLLM_PD_ISA is read whenever a model is loaded. */
export async function loadModelFor(
  isa: string,
  model: RandomModel,
  numThreads: number,
  weights: NativeWeights = { dtype: 'float32', quantization: null },
): Promise<NativeModel> {
  process.env.VLLM_PD_ISA = isa;
  try {
    return await nativeOfAll().loadModel(model.config, model.tensors, numThreads, weights);
  } finally {
    delete process.env.VLLM_PD_ISA;
  }
}

/** A pool for models of `loadModelFor`. */
export function createPoolForIsas(
  config: NativeModelConfig,
  numBlocks: number,
  blockSize: number,
  dtype: KvCacheDtype = 'float32',
): KvPool {
  return createPool(config, numBlocks, blockSize, dtype, nativeOfAll());
}

export async function canRun(isa: string, model: RandomModel): Promise<boolean> {
  try {
    (await loadModelFor(isa, model, 1)).close();
    return true;
  } catch {
    return false;
  }
}

/** Each instruction set's own name, or that of its emulation. */
export async function availableIsas(model: RandomModel): Promise<string[]> {
  const available: string[] = [];
  for (const isa of known) {
    if (await canRun(isa, model)) {
      available.push(isa);
    } else if (await canRun(emulated(isa), model)) {
      available.push(emulated(isa));
    } else {
      if (!reported.has(isa)) console.log(`skipped: this machine has no ${isa} and does not emulate it`);
      reported.add(isa);
    }
  }
  return available;
}
