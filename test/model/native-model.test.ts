// A model folder on the native module: however its weights are stored, the same logits; damage is refused before use.
import { cp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadModelFolder } from '../../src/model/model-folder.js';
import { readSafetensorsHeader } from '../../src/model/safetensors.js';
import { writeSafetensors } from '../../src/model/safetensors-writer.js';
import { greedyAnswer, nativeIsMissing, withPool } from './greedy-answers.js';
import { errorOf, withTinyModel } from './model-folders.js';

const prompt = [4355, 300, 301, 302, 4353, 4356];

async function answerOf(folder: string): Promise<readonly number[]> {
  const loaded = await loadModelFolder(folder, { numThreads: 1 });
  try {
    return await withPool(loaded.model, 64, async (pool) => {
      const answer = await greedyAnswer(loaded, pool, prompt, 24);
      return answer.margins;
    });
  } finally {
    loaded.model.close();
  }
}

/** Rewrites model.safetensors as two shards with an index. */
async function shard(folder: string): Promise<void> {
  const single = path.join(folder, 'model.safetensors');
  const bytes = await readFile(single);
  const entries = await readSafetensorsHeader(single);
  const weightMap: Record<string, string> = {};
  for (const parity of [0, 1]) {
    const file = `model-0000${parity + 1}-of-00002.safetensors`;
    const part = entries.filter((_, i) => i % 2 === parity);
    for (const { name } of part) weightMap[name] = file;
    await writeSafetensors(
      path.join(folder, file),
      part.map((entry) => ({
        ...entry,
        chunks: () => [bytes.subarray(entry.offset, entry.offset + entry.length)],
      })),
    );
  }
  await writeFile(
    path.join(folder, 'model.safetensors.index.json'),
    JSON.stringify({ weight_map: weightMap }),
  );
  await rm(single);
}

/** Moves the data by one byte, as a header of odd length does. */
async function misalign(folder: string): Promise<void> {
  const file = path.join(folder, 'model.safetensors');
  const bytes = await readFile(file);
  const length = Number(bytes.readBigUInt64LE());
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(length + 1));
  const header = bytes.subarray(8, 8 + length);
  await writeFile(file, Buffer.concat([prefix, header, Buffer.from(' '), bytes.subarray(8 + length)]));
}

for (const [what, change] of [
  ['in shards', shard],
  ['at odd offsets', misalign],
] as const) {
  test(`weights stored ${what} give the same logits`, async () => {
    if (nativeIsMissing()) return;
    await withTinyModel(async (folder) => {
      const copy = `${folder}-copy`;
      await cp(folder, copy, { recursive: true });
      await change(copy);
      assert.equal(await answerOf(copy), await answerOf(folder));
    });
  });
}

test('a loaded model knows its shape, and closing twice is fine', async () => {
  if (nativeIsMissing()) return;
  await withTinyModel(async (folder) => {
    const { model, config } = await loadModelFolder(folder, { numThreads: 1 });
    assert.equal(model.kvShape, { numLayers: 4, numKvHeads: 2, headDim: 16 });
    assert.is(model.vocabSize, config.vocabSize);
    assert.is(model.maxPositionEmbeddings, 32_768);
    model.close();
    model.close();
  });
});

async function change(folder: string, fields: object): Promise<void> {
  const file = path.join(folder, 'config.json');
  const config = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...config, ...fields }));
}

const weights = 'model.safetensors';

const damages: readonly (readonly [
  what: string,
  damage: (folder: string) => Promise<unknown>,
  message: RegExp,
])[] = [
  ['truncated weights', (folder) => truncate(path.join(folder, weights), 900_000), /inside or before tensor/],
  ['no weights', (folder) => rm(path.join(folder, weights)), /holds no weights/],
  [
    'another hidden size in config.json',
    (folder) => change(folder, { hidden_size: 128 }),
    /'model\.embed_tokens\.weight' has shape \[4360, 64\], but config\.json asks for \[4360, 128\]/,
  ],
  [
    'more layers in config.json than weights',
    (folder) => change(folder, { num_hidden_layers: 5 }),
    /tensor 'model\.layers\.4\.input_layernorm\.weight' is missing/,
  ],
  [
    'an unsupported config and damaged weights: the config is named',
    async (folder) => {
      await change(folder, { hidden_act: 'gelu' });
      await truncate(path.join(folder, weights), 100);
    },
    /field 'hidden_act'/,
  ],
];

for (const [what, damage, message] of damages) {
  test(`a folder with ${what} is refused`, () =>
    withTinyModel(async (folder) => {
      await damage(folder);
      const error = await errorOf(() => loadModelFolder(folder, { numThreads: 1 }));
      assert.is(error.code, 'BAD_FILE');
      assert.match(error.message, message);
    }));
}

test.run();
