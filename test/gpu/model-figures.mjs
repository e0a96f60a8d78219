// Seconds of whole steps on the GPU: decoding at batch 1 and 32 behind 1k tokens, and a prompt of 8k tokens; beside the bytes
// and the products that a step cannot do without. JSON, one line a figure.
//
//   node test/gpu/model-figures.mjs FOLDER [numPromptTokens]
import { readCheckpoint } from '../../dist/src/model/checkpoint.js';
import { readModelConfig } from '../../dist/src/model/model-config.js';
import { loadNative } from '../../dist/src/native.js';

const [folder, promptTokens = '8192'] = process.argv.slice(2);
const numPrompt = Number(promptTokens);
const context = Math.max(16, numPrompt >> 3);
const blockSize = 16;
const native = loadNative();
const config = await readModelConfig(folder, {});
const tensors = await readCheckpoint(folder, config);
const { numLayers, numKvHeads, headDim } = config;
/** Small prompts are for trying the script. */
const rounds = numPrompt < 1024 ? { decode: 1, prefill: 1 } : { decode: 21, prefill: 5 };
const sizes = { maxTokens: numPrompt, maxRequests: 32, maxPositions: numPrompt + blockSize };

function batch(requests, numTokens, begin) {
  const numBlocks = Math.ceil((begin + numTokens) / blockSize);
  const total = requests * numTokens;
  const each = (length, of) => Int32Array.from({ length }, (_, i) => of(i));
  return {
    tokenIds: each(total, (i) => 1 + (i % 200)),
    positions: each(total, (i) => begin + (i % numTokens)),
    cuSeqlensQ: each(requests + 1, (i) => i * numTokens),
    blockTables: each(requests * numBlocks, (i) => i),
    cuBlocks: each(requests + 1, (i) => i * numBlocks),
    logitsIndices: each(requests, (i) => (i + 1) * numTokens - 1),
  };
}

async function medianSeconds(model, pool, input, rounds) {
  const times = [];
  for (let i = 0; i < rounds + 3; i += 1) {
    const startedAt = performance.now();
    await model.forward(pool, input);
    // The first runs by itself, the second is captured.
    if (i >= 3) times.push((performance.now() - startedAt) / 1000);
  }
  return times.sort((a, b) => a - b)[times.length >> 1];
}

const matrices = tensors.filter(({ shape }) => shape.length === 2);
const isLookup = ({ name }) => name.includes('embed_tokens') && !config.tieWordEmbeddings;
const numWeights = matrices
  .filter((tensor) => !isLookup(tensor))
  .reduce((sum, { shape }) => sum + shape[0] * shape[1], 0);
const numHeadWeights = config.vocabSize * config.hiddenSize;

for (const batchInvariant of [true, false]) {
  const types = { dtype: 'bfloat16', kvDtype: 'bfloat16' };
  const model = await native.loadCudaModel(config, tensors, { ...types, batchInvariant, ...sizes });
  const numBlocks = Math.max(Math.ceil(numPrompt / blockSize), 32 * Math.ceil((context + 1) / blockSize)) + 1;
  const pool = native.createPool(
    { numBlocks, numLayers, numKvHeads, blockSize, headDim, dtype: 'bfloat16' },
    'device',
  );
  const print = (figure, values) => console.log(JSON.stringify({ figure, batchInvariant, ...values }));
  for (const requests of [1, 32]) {
    const seconds = await medianSeconds(model, pool, batch(requests, 1, context), rounds.decode);
    const bytes = numWeights * 2 + requests * context * numLayers * 2 * numKvHeads * headDim * 2;
    print(`decode step, batch ${requests}`, { seconds, bytes, bytesPerSecond: bytes / seconds });
  }
  const seconds = await medianSeconds(model, pool, batch(1, numPrompt, 0), rounds.prefill);
  const attention = 2 * numPrompt ** 2 * headDim * config.numHeads * numLayers;
  const flops = 2 * (numWeights - numHeadWeights) * numPrompt + attention;
  print(`prefill, ${numPrompt} tokens`, { seconds, flops, flopsPerSecond: flops / seconds });
  pool.close();
  model.close();
}
