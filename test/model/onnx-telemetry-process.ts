// Runs an exported decoder and ends: what a process of this package leaves behind is looked at from outside.

import { loadModelFolder } from '../../src/model/model-folder.js';
import { resolveModel } from '../../src/model/resolve-model.js';
import { loadNative } from '../../src/native.js';
import { forwardTokens } from './onnx-forward.js';

const { model } = await loadModelFolder(await resolveModel('tiny', { backend: 'onnx' }), {
  backend: 'onnx',
  numThreads: 1,
});
const pool = loadNative().createPool({ ...model.kvShape, dtype: 'float32', blockSize: 16, numBlocks: 4 });
await forwardTokens(model, pool, [1, 2, 3, 4], [4]);
pool.close();
model.close();
