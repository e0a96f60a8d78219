// Model folders of any supported shape with seeded weights, without a tokenizer: for comparing forward passes.
import path from 'node:path';
import { readModelConfig } from '../../src/model/model-config.js';
import { numElements } from '../../src/model/model-tensors.js';
import { writeSafetensors } from '../../src/model/safetensors-writer.js';
import { seededTensor } from '../../src/model/seeded-weights.js';
import { storedTensors } from '../../src/model/stored-tensors.js';
import { withFolder } from './model-folders.js';

/** Matrices, gains and biases alike are drawn at random. */
export function withSeededFolder<T>(config: object, use: (folder: string) => Promise<T>): Promise<T> {
  return withFolder({ 'config.json': config }, async (folder) => {
    const tensors = storedTensors(await readModelConfig(folder)).map(({ name, shape }) => {
      const std = shape.length === 1 ? 1 : 2 / Math.sqrt(shape[1]!);
      return { name, shape, dtype: 'BF16', chunks: () => seededTensor(1, name, numElements(shape), std) };
    });
    await writeSafetensors(path.join(folder, 'model.safetensors'), tensors);
    return use(folder);
  });
}
