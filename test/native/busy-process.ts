// Starts a long forward pass and says so; for tests that end a process or a worker in the middle of one.
import { parentPort } from 'node:worker_threads';
import { loadNative } from '../../src/native.js';
import { createPool, createRandomModel } from './random-model.js';

const random = createRandomModel({ hiddenSize: 256, intermediateSize: 1024, numLayers: 8 });
const model = await loadNative().loadModel(random.config, random.tensors, 2);
random.remove();
const numTokens = 4096;
const pool = createPool(random.config, numTokens / 16, 16);
const indices = Int32Array.from({ length: numTokens }, (_, i) => i);
const forward = model.forward(pool, {
  tokenIds: new Int32Array(numTokens),
  positions: indices,
  cuSeqlensQ: Int32Array.of(0, numTokens),
  blockTables: indices.slice(0, numTokens / 16),
  cuBlocks: Int32Array.of(0, numTokens / 16),
  logitsIndices: indices,
});
if (parentPort) {
  parentPort.postMessage('running');
  await forward;
} else {
  process.exit(7);
}
