// A short name for a model's shape and weights: nodes that exchange KV must have the same.
import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { readCheckpoint } from '../model/checkpoint.js';
import type { ModelConfig } from '../model/model-config.js';

/** Bytes looked at in the middle of each tensor: enough to tell checkpoints apart without reading them whole. */
const sampleBytes = 256;

/** 64 hex digits. */
export async function modelFingerprint(modelPath: string, config: ModelConfig): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify({ ...config, invFreq: [...config.invFreq] }));
  const files = new Map<string, FileHandle>();
  try {
    for (const { name, path, dtype, shape, offset, length } of await readCheckpoint(modelPath, config)) {
      const file = files.get(path) ?? (await open(path));
      files.set(path, file);
      const numBytes = Math.min(sampleBytes, length);
      const sample = Buffer.alloc(numBytes);
      await file.read(sample, 0, numBytes, offset + Math.floor((length - numBytes) / 2));
      hash.update(JSON.stringify([name, dtype, shape])).update(sample);
    }
  } finally {
    await Promise.all([...files.values()].map((file) => file.close()));
  }
  return hash.digest('hex');
}
