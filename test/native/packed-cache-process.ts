// Process entry: loads a random model with a cache and prints where its weights came from and a hash of its logits.
import { createHash } from 'node:crypto';
import { loadNative } from '../../src/native.js';
import { createPool, forwardChunks, type RandomModel } from './random-model.js';

const [given, ...paths] = process.argv.slice(2);
const { config, tensors } = JSON.parse(given!) as Pick<RandomModel, 'config' | 'tensors'>;
const restored = { ...config, invFreq: Float32Array.from(Object.values(config.invFreq)) };
const model = await loadNative().loadModel(restored, tensors, 1, {
  dtype: 'bfloat16',
  quantization: null,
  cache: { paths, key: 'key' },
});
const pool = createPool(restored, 3, 16);
const chunk = { tokens: [1, 2, 3, 4], begin: 0, end: 4, blockTable: [1] };
const hash = createHash('sha256');
for (const row of await forwardChunks(model, pool, [chunk])) hash.update(row);
process.stdout.write(JSON.stringify([model.weightSource, hash.digest('hex')]));
model.close();
pool.close();
