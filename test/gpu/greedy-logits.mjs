// Greedy answers of the CUDA backend to a few prompts, and the logits that each token was taken from, for oracle.py.
//
//   node test/gpu/greedy-logits.mjs MODEL OUT MAX_PROMPT_TOKENS     → OUT.json: prompts, answers; OUT.bin: (answers' tokens, vocab) float32
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { readCheckpoint } from '../../dist/src/model/checkpoint.js';
import { readModelConfig } from '../../dist/src/model/model-config.js';
import { loadNative } from '../../dist/src/native.js';

const [folder, out, maxPromptTokens] = process.argv.slice(2);
const blockSize = 16;
const numAnswerTokens = 16;
const config = await readModelConfig(folder, {});
const lengths = [5, 37, 200, 511].filter((length) => length <= Number(maxPromptTokens));
const prompts = lengths.map((length, i) =>
  Array.from({ length }, (_, at) => (at * 7919 + i * 104729 + 3) % Math.min(config.vocabSize, 20_000)),
);
const maxPositions = Math.max(...lengths) + numAnswerTokens;
const native = loadNative();
const sizes = { maxTokens: maxPositions, maxRequests: 1, maxPositions };
const { numLayers, numKvHeads, headDim } = config;
const model = await native.loadCudaModel(config, await readCheckpoint(folder, config), {
  ...{ dtype: 'bfloat16', kvDtype: 'bfloat16', batchInvariant: true },
  ...sizes,
});
const numBlocks = Math.ceil(maxPositions / blockSize);
const pool = native.createPool(
  { numBlocks, numLayers, numKvHeads, blockSize, headDim, dtype: 'bfloat16' },
  'device',
);
// Blocks of a sequence need not lie in order.
const blockTables = Int32Array.from({ length: numBlocks }, (_, i) => numBlocks - 1 - i);

/** Logits behind tokens [begin, end) of a sequence. */
function step(tokens, begin) {
  const count = tokens.length - begin;
  return model.forward(pool, {
    tokenIds: Int32Array.from(tokens.slice(begin)),
    positions: Int32Array.from({ length: count }, (_, i) => begin + i),
    cuSeqlensQ: Int32Array.of(0, count),
    blockTables,
    cuBlocks: Int32Array.of(0, numBlocks),
    logitsIndices: Int32Array.of(count - 1),
  });
}

const file = openSync(`${out}.bin`, 'w');
const answers = [];
for (const prompt of prompts) {
  const tokens = [...prompt];
  let begin = 0;
  for (let i = 0; i < numAnswerTokens; i += 1) {
    const logits = await step(tokens, begin);
    writeSync(file, new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength));
    begin = tokens.length;
    tokens.push(logits.reduce((best, logit, id) => (logit > logits[best] ? id : best), 0));
  }
  answers.push(tokens.slice(prompt.length));
}
closeSync(file);
writeFileSync(`${out}.json`, JSON.stringify({ prompts, answers, vocab: config.vocabSize }));
console.log(JSON.stringify({ prompts: prompts.length, tokens: answers.flat().length }));
pool.close();
model.close();
