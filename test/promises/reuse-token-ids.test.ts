// Answers whose text the tokenizer would split otherwise: lost KV without --reuse-token-ids, found KV with it.
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ClusterOptions } from '../../src/server/cluster.js';
import { byteLevelTokenizer, withTinyModel } from '../model/model-folders.js';
import type { Answer } from './by-hand.js';
import { playConversation, texts } from './conversation.js';

const numAnswerTokens = 60;
const prompts = ['Explain how a kettle knows that the water boils.', 'And why is that so?', 'And then?'];

/** Answers are letters, one or two a token, so their text has many splits, of which the tokenizer takes one. */
function withAmbiguousModel<T>(use: (folder: string) => Promise<T>): Promise<T> {
  return withTinyModel(async (folder) => {
    const letters = [...'abcdefghijklmnopqrstuvwxyz'];
    const merges = letters.flatMap((a) => letters.map((b) => [a, b] as const));
    const specials = ['<|end|>', '<|system|>', '<|user|>', '<|assistant|>', '<|tool|>'];
    const writeJson = (name: string, json: object) =>
      writeFile(path.join(folder, name), JSON.stringify(json));
    await writeJson('tokenizer.json', byteLevelTokenizer(merges, specials));
    const isLetters = (id: number) => (id >= 97 && id <= 122) || (id >= 256 && id < 256 + merges.length);
    const suppressed = Array.from({ length: 4360 }, (_, id) => id).filter((id) => !isLetters(id));
    await writeJson('generation_config.json', { suppress_tokens: suppressed });
    return use(folder);
  });
}

const play = (options: ClusterOptions) => playConversation(options, prompts, numAnswerTokens);

const mismatches = (answers: readonly Answer[]) => answers.map(({ stats }) => stats.ledger.template_mismatch);
const pulled = (answers: readonly Answer[]) =>
  answers.reduce((sum, { stats }) => sum + stats.ledger.pulled_from_d, 0);

test('an answer that re-tokenises otherwise is recomputed, and pulled where its ids are reused', () =>
  withAmbiguousModel(async (model) => {
    const [without, reusing, aggregated] = await Promise.all([
      play({ engine: { model } }),
      play({ engine: { model, reuseTokenIds: true } }),
      play({ prefill: 0, decode: 1, engine: { model, reuseTokenIds: true } }),
    ]);
    assert.ok(
      mismatches(without)
        .slice(1)
        .every((tokens) => tokens > 0),
      mismatches(without).join(),
    );
    assert.equal(mismatches(reusing), [0, 0, 0]);
    assert.ok(pulled(reusing) > pulled(without) + numAnswerTokens, `${pulled(reusing)} ${pulled(without)}`);
    assert.equal(texts(aggregated), texts(reusing));
  }));

test('a template that changes answers makes a mismatch all the same, and nothing is spliced into it', () =>
  withAmbiguousModel(async (model) => {
    const file = path.join(model, 'tokenizer_config.json');
    const config = JSON.parse(await readFile(file, 'utf8')) as { chat_template: string };
    const shortening = config.chat_template.replace(
      "(message['content'] or '')",
      "(message['content'])[:20]",
    );
    assert.is.not(shortening, config.chat_template);
    await writeFile(file, JSON.stringify({ ...config, chat_template: shortening }));
    const answers = await play({ engine: { model, reuseTokenIds: true } });
    assert.ok(
      mismatches(answers)
        .slice(1)
        .every((tokens) => tokens > 0),
      mismatches(answers).join(),
    );
  }));

test.run();
