// The instruction sets that this machine has kernels for, so that a test can run them all.

import type { NativeModel } from '../../src/native/model.js';
import type { NativeWeights } from '../../src/native/model-config.js';
import { loadNative } from '../../src/native.js';
import type { RandomModel } from './random-model.js';

const known = ['portable', 'avx2', 'avx512', 'avx512_vnni', 'avx512_bf16', 'amx'];
const reported = new Set<string>();

/** VLLM_PD_ISA is read whenever a model is loaded. */
export async function loadModelFor(
  isa: string,
  model: RandomModel,
  numThreads: number,
  weights: NativeWeights = { dtype: 'float32', quantization: null },
): Promise<NativeModel> {
  process.env.VLLM_PD_ISA = isa;
  try {
    return await loadNative().loadModel(model.config, model.tensors, numThreads, weights);
  } finally {
    delete process.env.VLLM_PD_ISA;
  }
}

export async function availableIsas(model: RandomModel): Promise<string[]> {
  const available: string[] = [];
  for (const isa of known) {
    try {
      (await loadModelFor(isa, model, 1)).close();
      available.push(isa);
    } catch {
      if (!reported.has(isa)) console.log(`skipped: this machine has no ${isa}`);
      reported.add(isa);
    }
  }
  return available;
}
