// The embedded models: the same bytes everywhere, made once, and answers that come back as the same ids.
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ChatTemplate } from '../../src/model/chat-template.js';
import { createModelFolder } from '../../src/model/default-model.js';
import { words } from '../../src/model/default-vocabulary.js';
import { Detokenizer } from '../../src/model/detokenizer.js';
import { comesBack, historyRoundTrip } from '../../src/model/history-round-trip.js';
import { inspectModel } from '../../src/model/inspect-model.js';
import { loadModelTexts } from '../../src/model/model-folder.js';
import { resolveModel } from '../../src/model/resolve-model.js';
import { seededTensor } from '../../src/model/seeded-weights.js';
import { byteLevelTokenizer, createRandom, errorOf, withFolder, withTinyModel } from './model-folders.js';

const sha256 = async (file: string) =>
  createHash('sha256')
    .update(await readFile(file))
    .digest('hex');

function bf16Values(chunks: Iterable<Uint8Array>): number[] {
  const bytes = Buffer.concat([...chunks]);
  const bits = new Uint32Array(bytes.length / 2).map((_, i) => bytes.readUInt16LE(2 * i) << 16);
  return [...new Float32Array(bits.buffer)];
}

test("the tiny model's weights are the same bits on every machine", () =>
  withTinyModel(async (folder) => {
    assert.is(
      await sha256(path.join(folder, 'model.safetensors')),
      '92b3548ca1a7237477d53697556fe65834c8cfbc23daadc7b70aaf6d39fa0933',
    );
  }));

test('seeded weights have the mean and deviation asked for and look independent', () => {
  const n = 300_000;
  const values = bf16Values(seededTensor(0, 'a', n, 0.5));
  const other = bf16Values(seededTensor(0, 'b', n, 0.5));
  const otherSeed = bf16Values(seededTensor(1, 'a', n, 0.5));
  const mean = (list: readonly number[]) => list.reduce((sum, value) => sum + value, 0) / list.length;
  const correlation = (a: readonly number[], b: readonly number[]) => mean(a.map((x, i) => x * b[i]!)) / 0.25;
  assert.is(values.length, n);
  assert.ok(Math.abs(mean(values)) < 0.005);
  assert.ok(Math.abs(Math.sqrt(mean(values.map((x) => x * x))) - 0.5) < 0.005);
  // Five standard errors of a correlation of independent values.
  const limit = 5 / Math.sqrt(n);
  for (const list of [other, otherSeed]) assert.ok(Math.abs(correlation(values, list)) < limit);
  for (const lag of [1, 2, 64, 512]) {
    assert.ok(Math.abs(correlation(values.slice(0, -lag), values.slice(lag))) < limit, `lag ${lag}`);
  }
});

test('a model of another seed has other weights and the same tokenizer', () =>
  withFolder({}, async (parent) => {
    const [a, b] = [path.join(parent, 'a'), path.join(parent, 'b')];
    await createModelFolder(a, { arch: 'tiny', seed: 0 });
    await createModelFolder(b, { arch: 'tiny', seed: 1 });
    const same = async (name: string) =>
      (await sha256(path.join(a, name))) === (await sha256(path.join(b, name)));
    assert.is(await same('model.safetensors'), false);
    assert.is(await same('tokenizer.json'), true);
  }));

test('a folder with content is left alone, an empty one is filled', () =>
  withFolder({ 'notes.txt': 'mine' }, async (folder) => {
    assert.is(await createModelFolder(folder, { arch: 'tiny', seed: 0 }), false);
    assert.equal(await readdir(folder), ['notes.txt']);
    const empty = path.join(folder, 'empty');
    await mkdir(empty);
    assert.is(await createModelFolder(empty, { arch: 'tiny', seed: 0 }), true);
    assert.ok((await readdir(empty)).includes('model.safetensors'));
    const inFile = await errorOf(() =>
      createModelFolder(path.join(folder, 'notes.txt'), { arch: 'tiny', seed: 0 }),
    );
    assert.is(inFile.code, 'INVALID_ARGUMENT');
  }));

async function withCache<T>(use: (cache: string) => Promise<T>): Promise<T> {
  const before = process.env.VLLM_PD_CACHE;
  return withFolder({}, async (cache) => {
    process.env.VLLM_PD_CACHE = cache;
    try {
      return await use(cache);
    } finally {
      if (before === undefined) delete process.env.VLLM_PD_CACHE;
      else process.env.VLLM_PD_CACHE = before;
    }
  });
}

test('an embedded model is made on first use, and only then', () =>
  withCache(async (cache) => {
    const progress: number[] = [];
    const onProgress = (fraction: number) => progress.push(fraction);
    const folder = await resolveModel('tiny', { onProgress });
    assert.is(path.dirname(folder), path.join(cache, 'models'));
    assert.is(progress.at(-1), 1);
    progress.length = 0;
    assert.is(await resolveModel('tiny', { onProgress }), folder);
    assert.equal(progress, []);
  }));

test('two that make it at once both get it whole, and nothing else is left', () =>
  withCache(async (cache) => {
    const folders = await Promise.all(Array.from({ length: 4 }, () => resolveModel('tiny')));
    assert.is(new Set(folders).size, 1);
    assert.equal(await readdir(path.join(cache, 'models')), [path.basename(folders[0]!)]);
    assert.is((await inspectModel(folders[0]!, 16)).num_hidden_layers, 4);
  }));

test('what a killed process left behind an hour ago is removed, what is fresh is not', () =>
  withFolder({}, async (parent) => {
    const folder = path.join(parent, 'm');
    for (const name of ['m.tmp-1-1', 'm.tmp-2-2']) {
      await mkdir(path.join(parent, name));
      await writeFile(path.join(parent, name, 'x'), '');
    }
    const long = new Date(Date.now() - 2 * 3_600_000);
    await utimes(path.join(parent, 'm.tmp-1-1'), long, long);
    await createModelFolder(folder, { arch: 'tiny', seed: 0 });
    assert.equal((await readdir(parent)).sort(), ['m', 'm.tmp-2-2']);
  }));

test('a path is taken as it is; what is no model says what is possible', () =>
  withTinyModel(async (folder) => {
    assert.is(await resolveModel(path.relative('.', folder)), folder);
    const unknown = await errorOf(() => resolveModel('gpt-5'));
    assert.is(unknown.code, 'NOT_FOUND');
    assert.match(unknown.message, "no model 'gpt-5': expected default, tiny or the path of a model folder");
    assert.is((await errorOf(() => resolveModel(path.dirname(folder)))).code, 'BAD_FILE');
  }));

test('words are pronounceable, distinct, and one token each', () =>
  withTinyModel(async (folder) => {
    const { tokenizer } = await loadModelTexts(folder);
    assert.is(new Set(words).size, 4096);
    const ids = tokenizer.encode(words.map((word) => ` ${word}`).join(''));
    assert.equal(
      ids,
      words.map((_, i) => 256 + i),
    );
  }));

test('exactly the words may be generated', () =>
  withTinyModel(async (folder) => {
    const { config, generationConfig, tokenizer } = await loadModelTexts(folder);
    const suppressed = new Set(generationConfig.suppressTokens);
    const left = Array.from({ length: config.vocabSize }, (_, id) => id).filter((id) => !suppressed.has(id));
    assert.equal(
      tokenizer.tokenStrings(left),
      words.map((word) => `Ġ${word}`),
    );
    assert.equal(
      generationConfig.eosTokenIds.map((id) => suppressed.has(id)),
      [true],
    );
  }));

test('any answer comes back as the same ids when it is sent as history', () =>
  withTinyModel(async (folder) => {
    const texts = await loadModelTexts(folder);
    const { tokenizer, chatTemplate } = texts;
    const random = createRandom(3);
    for (let round = 0; round < 200; round++) {
      const answer = Array.from({ length: 1 + Math.floor(random() * 80) }, () =>
        Math.floor(256 + random() * words.length),
      );
      const detokenizer = new Detokenizer(tokenizer);
      const streamed = answer.map((id) => detokenizer.push([id])).join('') + detokenizer.flush();
      assert.is(streamed, tokenizer.decode(answer));
      const first = [
        { role: 'system', content: 'Be brief.\n' },
        { role: 'user', content: '  Wo ist é€😀? \n' },
      ];
      const next = [...first, { role: 'assistant', content: streamed }, { role: 'user', content: ' bako' }];
      const start = [...chatTemplate.encodeChat(first), ...answer];
      assert.equal(chatTemplate.encodeChat(next).slice(0, start.length), start);
      assert.ok(comesBack(texts, answer));
    }
    assert.is(historyRoundTrip(texts), 'any_answer');
  }));

test('other texts fall back to bytes and come back too', () =>
  withTinyModel(async (folder) => {
    const { tokenizer } = await loadModelTexts(folder);
    for (const text of ['Hello, World!', 'bako', '  bako', ' Bako\tbako\n', 'é€😀', ' bakobako', '\ufeff']) {
      assert.is(tokenizer.decode(tokenizer.encode(text)), text);
    }
  }));

test('the template refuses a role that it does not know', () =>
  withTinyModel(async (folder) => {
    const { chatTemplate } = await loadModelTexts(folder);
    const error = await errorOf(() => chatTemplate.renderChat([{ role: 'wizard', content: 'x' }]));
    assert.match(error.message, 'Unknown role wizard');
    assert.is(
      chatTemplate.renderChat([{ role: 'assistant', content: null }], { addGenerationPrompt: false }),
      '<|assistant|><|end|>',
    );
  }));

test('the round-trip check tells a template that trims from one that keeps', () =>
  withTinyModel(async (folder) => {
    const texts = await loadModelTexts(folder);
    const trimming =
      "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}" +
      '{% if add_generation_prompt %}<|assistant|>{% endif %}';
    await writeFile(path.join(folder, 'chat_template.jinja'), trimming);
    const chatTemplate = await ChatTemplate.load(folder, texts.tokenizer);
    assert.is(historyRoundTrip({ ...texts, chatTemplate }), 'broken');
  }));

test('the round-trip check tells a vocabulary with merges from one without', () =>
  withTinyModel(async (folder) => {
    // Every pair of bytes that a random answer may hold side by side merges into another token.
    const letters = [...'abcdefghijklmnopqrstuvwxyz'];
    const merges = letters.flatMap((a) => letters.map((b) => [a, b] as const));
    const specials = ['<|end|>', '<|system|>', '<|user|>', '<|assistant|>', '<|tool|>'];
    await writeFile(
      path.join(folder, 'tokenizer.json'),
      JSON.stringify(byteLevelTokenizer(merges, specials)),
    );
    const notLetters = Array.from({ length: 256 }, (_, id) => id).filter((id) => id < 97 || id > 122);
    await writeFile(
      path.join(folder, 'generation_config.json'),
      JSON.stringify({ suppress_tokens: notLetters }),
    );
    assert.is(historyRoundTrip(await loadModelTexts(folder)), 'canonical_text');
  }));

test('inspect counts parameters and KV bytes', () =>
  withTinyModel(async (folder) => {
    const report = await inspectModel(folder, 16);
    assert.is(report.num_parameters, 706_240);
    assert.is(report.weights_bytes, 2 * 706_240);
    assert.is(report.kv_bytes_per_token, 4 * 2 * 2 * 16 * 4);
    assert.is(report.kv_bytes_per_block, 16 * report.kv_bytes_per_token!);
    assert.is(report.history_round_trip, 'any_answer');
  }));

test.run();
