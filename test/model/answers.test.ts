// Seeded weights are only worth something if answers depend on the whole context and do not run into a loop.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { words } from '../../src/model/default-vocabulary.js';
import { loadModelFolder, type ModelFolder } from '../../src/model/model-folder.js';
import { greedyAnswer, nativeIsMissing, withPool } from './greedy-answers.js';
import { createRandom, withTinyModel } from './model-folders.js';

function withTiny(use: (folder: ModelFolder) => Promise<void>): () => Promise<void> {
  return async () => {
    if (nativeIsMissing()) return;
    await withTinyModel(async (path) => {
      const folder = await loadModelFolder(path, { numThreads: 2 });
      try {
        await use(folder);
      } finally {
        folder.model.close();
      }
    });
  };
}

const randomWords = (random: () => number, count: number): number[] =>
  Array.from({ length: count }, () => 256 + Math.floor(random() * words.length));

/** A chat prompt of `length` tokens, so that the answer begins where it does in use. */
function chatPrompt(
  { tokenizer, chatTemplate }: ModelFolder,
  random: () => number,
  length: number,
): number[] {
  const content = tokenizer.decode(randomWords(random, length - 3));
  return chatTemplate.encodeChat([{ role: 'user', content }]);
}

/** The shortest cycle, up to `longest` tokens, that the answer ends in for at least two rounds. */
function finalPeriod(ids: readonly number[], longest: number): number | null {
  for (let period = 1; period <= longest; period++) {
    const tail = ids.slice(-2 * period);
    if (tail.slice(0, period).join() === tail.slice(period).join()) return period;
  }
  return null;
}

test(
  'greedy answers of 200 tokens run into no loop',
  withTiny(async (folder) => {
    const random = createRandom(5);
    await withPool(folder.model, 512, async (pool) => {
      for (let i = 0; i < 20; i++) {
        const { tokenIds } = await greedyAnswer(folder, pool, chatPrompt(folder, random, 8 + 12 * i), 200);
        const distinct = new Set(tokenIds).size / tokenIds.length;
        assert.ok(distinct > 0.5, `prompt ${i}: only ${distinct} of the tokens are distinct`);
        // A single repeated word can be chance; a longer repetition cannot.
        const period = finalPeriod(tokenIds, 50);
        assert.ok(period === null || period === 1, `prompt ${i} ends in a cycle of ${period}`);
        assert.ok(new Set(tokenIds.slice(-4)).size > 1, `prompt ${i} ends in one word`);
      }
    });
  }),
);

test(
  'the best token stands out by neither nothing nor everything',
  withTiny(async (folder) => {
    const random = createRandom(6);
    await withPool(folder.model, 512, async (pool) => {
      const answer = await greedyAnswer(folder, pool, chatPrompt(folder, random, 100), 300);
      const margins = [...answer.margins].sort((a, b) => a - b);
      const median = margins[margins.length / 2]!;
      assert.ok(median > 0.2 && median < 3, `median margin ${median}`);
      // Exact ties would make the answer depend on the order in which a sampler looks.
      assert.ok(margins[0]! > 0);
    });
  }),
);

for (const [length, numPairs] of [
  [64, 40],
  [2048, 20],
] as const) {
  test(
    `one early token of ${length} changes the answer within 32 tokens`,
    withTiny(async (folder) => {
      const random = createRandom(length);
      await withPool(folder.model, length + 64, async (pool) => {
        let numChanged = 0;
        for (let i = 0; i < numPairs; i++) {
          const prompt = chatPrompt(folder, random, length);
          const position = 1 + Math.floor(random() * 16);
          const other = prompt.with(position, 256 + ((prompt[position]! - 256 + 1) % words.length));
          const a = await greedyAnswer(folder, pool, prompt, 32);
          const b = await greedyAnswer(folder, pool, other, 32);
          if (a.tokenIds.join() !== b.tokenIds.join()) numChanged++;
        }
        assert.ok(numChanged >= 0.95 * numPairs, `only ${numChanged} of ${numPairs} answers changed`);
      });
    }),
  );
}

test.run();
