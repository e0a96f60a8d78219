// A short name for a model's shape and weights: nodes that exchange KV must have the same.
import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import path from 'node:path';
import type { Backend } from '../config.js';
import { readCheckpoint } from '../model/checkpoint.js';
import { type ModelConfigOptions, readModelConfig } from '../model/model-config.js';
import { resolveWeights, type WeightChoice } from '../model/native-model.js';
import { requireOnnxFiles } from '../model/onnx-files.js';

/** Bytes looked at in the middle of each tensor: enough to tell checkpoints apart without reading them whole. */
const sampleBytes = 256;

/** Places looked at in a file whose tensors are not known one by one. */
const numSamples = 1024;

/** 64 hex digits. Another backend computes other bits, so it is part of the name. */
export async function modelFingerprint(
  modelPath: string,
  backend: Backend,
  options: ModelConfigOptions & WeightChoice & { readonly onnxFile?: string | null } = {},
): Promise<string> {
  // Other weights make other bits as well.
  const weights = backend === 'onnx' ? {} : resolveWeights(options, backend);
  const hash = createHash('sha256').update(JSON.stringify({ backend, ...weights }));
  if (backend === 'onnx') await addOnnxFiles(hash, modelPath, options.onnxFile);
  else await addCheckpoint(hash, modelPath, options);
  return hash.digest('hex');
}

async function addCheckpoint(hash: Hash, modelPath: string, options: ModelConfigOptions): Promise<void> {
  const config = await readModelConfig(modelPath, options);
  hash.update(JSON.stringify({ ...config, invFreq: [...config.invFreq] }));
  const files = new Map<string, FileHandle>();
  try {
    for (const tensor of await readCheckpoint(modelPath, config)) {
      const { name, dtype, shape, offset, length } = tensor;
      const file = files.get(tensor.path) ?? (await open(tensor.path));
      files.set(tensor.path, file);
      hash.update(JSON.stringify([name, dtype, shape])).update(await sample(file, offset, length));
    }
  } finally {
    await Promise.all([...files.values()].map((file) => file.close()));
  }
}

async function addOnnxFiles(hash: Hash, modelPath: string, name?: string | null): Promise<void> {
  const { graph, external } = await requireOnnxFiles(modelPath, name);
  for (const part of [graph, ...external]) {
    const file = await open(part);
    try {
      const { size } = await file.stat();
      hash.update(JSON.stringify([path.basename(part), size]));
      const stride = Math.max(sampleBytes, Math.floor(size / numSamples));
      for (let offset = 0; offset < size; offset += stride) {
        hash.update(await sample(file, offset, Math.min(stride, size - offset)));
      }
    } finally {
      await file.close();
    }
  }
}

/** The middle of [offset, offset + length). */
async function sample(file: FileHandle, offset: number, length: number): Promise<Uint8Array> {
  const numBytes = Math.min(sampleBytes, length);
  const bytes = Buffer.alloc(numBytes);
  await file.read(bytes, 0, numBytes, offset + Math.floor((length - numBytes) / 2));
  return bytes;
}
