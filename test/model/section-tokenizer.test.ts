// Texts are tokenised section by section and remembered: the ids must be the library's for the whole text, always.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { words } from '../../src/model/default-vocabulary.js';
import { EncodingCache } from '../../src/model/encoding-cache.js';
import { Tokenizer } from '../../src/model/tokenizer.js';
import { byteLevelTokenizer, createRandom, llamaConfig, withFolder, withTinyModel } from './model-folders.js';

interface AddedTokenJson {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  readonly [flag: string]: unknown;
}

interface TokenizerJson {
  readonly added_tokens: readonly AddedTokenJson[];
  readonly [field: string]: unknown;
}

const merges = [
  ['h', 'e'],
  ['l', 'l'],
  ['he', 'll'],
  ['Ġ', 'hell'],
  ['Ġ', 'Ġ'],
] as const;

/** `<s>x` is longer than `<s>` and `<s` shorter: which of them is found depends on what follows. */
const bpe = byteLevelTokenizer(merges, ['<s>', '</s>', '<s', '<s>x', 'h|']);

const template = (single: readonly object[]) => ({
  type: 'TemplateProcessing',
  single,
  pair: [],
  special_tokens: {},
});
const token = (id: string) => ({ SpecialToken: { id, type_id: 0 } });
const sequence = { Sequence: { id: 'A', type_id: 0 } };

/** Words with '▁', unknown characters as `<0xNN>`. */
function byteFallback(fields: object): TokenizerJson {
  const bytes = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
  );
  const vocab = ['<unk>', '<s>', '</s>', ...bytes, '▁', 'h', 'e', 'l', '▁h', 'he', '▁he'];
  return {
    added_tokens: ['<unk>', '<s>', '</s>'].map((content, id) => ({ id, content, special: true })),
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      byte_fallback: true,
      fuse_unk: true,
      vocab: Object.fromEntries(vocab.map((entry, id) => [entry, id])),
      merges: [
        ['▁', 'h'],
        ['h', 'e'],
        ['▁', 'he'],
      ],
    },
    ...fields,
  };
}

function metaspace(prependScheme: string): TokenizerJson {
  return byteFallback({ pre_tokenizer: { type: 'Metaspace', prepend_scheme: prependScheme } });
}

function withFlags(json: TokenizerJson, flags: object): TokenizerJson {
  return { ...json, added_tokens: json.added_tokens.map((added) => ({ ...added, ...flags })) };
}

const prepending = {
  type: 'Sequence',
  normalizers: [{ type: 'Lowercase' }, { type: 'Prepend', prepend: '▁' }],
};

const tokenizers: readonly (readonly [name: string, json: TokenizerJson])[] = [
  ['byte-level BPE', bpe],
  ['tokens around the text', { ...bpe, post_processor: template([token('<s>'), sequence, token('</s>')]) }],
  ['text twice', { ...bpe, post_processor: template([sequence, token('</s>'), sequence]) }],
  ['prefix space', { ...bpe, pre_tokenizer: { ...bpe.pre_tokenizer, add_prefix_space: true } }],
  ['Metaspace always', metaspace('always')],
  ['Metaspace first', metaspace('first')],
  ['Metaspace never', metaspace('never')],
  ['normalizer', byteFallback({ normalizer: prepending })],
  ['normalised added tokens', withFlags(byteFallback({ normalizer: prepending }), { normalized: true })],
  ['lstrip', withFlags(bpe, { lstrip: true })],
  ['rstrip', withFlags(metaspace('first'), { rstrip: true })],
  ['single_word', withFlags(bpe, { single_word: true })],
  ['no added tokens', { ...bpe, added_tokens: [] }],
  [
    'two added tokens of one id',
    { ...bpe, added_tokens: bpe.added_tokens.map((added) => ({ ...added, id: 261 })) },
  ],
];

const snippets = [
  ...[
    '<s>',
    '</s>',
    '<s',
    '<s>x',
    'h|',
    '<unk>',
    '<S>',
    ' ',
    '  ',
    '\n',
    'x',
    '>',
    '|',
    'he',
    'hell',
    ' hello',
    'LL',
  ],
  ...['é', '€', '😀', '\ud83d', '\0', '▁', ' it’s', '12 ', "'s", '<|user|>', '<|end|>', ` ${words[7]}`],
];

function randomText(random: () => number): string {
  const length = Math.floor(random() * 12);
  return Array.from({ length }, () => snippets[Math.floor(random() * snippets.length)]).join('');
}

/** Random texts, each twice and grown like a conversation, with and without special tokens. */
function checkEqual(tokenizer: Tokenizer, library: LibraryTokenizer): void {
  const random = createRandom(3);
  for (let conversation = 0; conversation < 150; conversation++) {
    let text = '';
    for (let turn = 0; turn < 4; turn++) {
      text += randomText(random);
      for (const addSpecialTokens of [true, false, true]) {
        const expected = library.encode(text, { add_special_tokens: addSpecialTokens }).ids;
        assert.equal(tokenizer.encode(text, { addSpecialTokens }), expected, JSON.stringify(text));
        assert.is(tokenizer.numUnknownCharacters(text, { addSpecialTokens }), 0);
      }
    }
  }
}

for (const [name, json] of tokenizers) {
  test(`section by section gives the ids of the whole text: ${name}`, async () => {
    const files = { 'config.json': llamaConfig, 'tokenizer.json': json };
    checkEqual(await withFolder(files, Tokenizer.load), new LibraryTokenizer(json, {}));
  });
}

test('section by section gives the ids of the whole text: the embedded model', async () => {
  await withTinyModel(async (folder) => {
    const json = JSON.parse(await readFile(path.join(folder, 'tokenizer.json'), 'utf8'));
    checkEqual(await Tokenizer.load(folder), new LibraryTokenizer(json, {}));
  });
});

test('only the new messages of a conversation are unknown', async () => {
  const tokenizer = await withFolder({ 'config.json': llamaConfig, 'tokenizer.json': bpe }, Tokenizer.load);
  const options = { addSpecialTokens: false };
  const history = '<s>hello hello</s><s>hell</s>';
  assert.ok(tokenizer.numUnknownCharacters(history, options) > 0);
  tokenizer.encode(history, options);
  assert.is(tokenizer.numUnknownCharacters(history, options), 0);
  // A section is counted with the added token that stands in for the one before it.
  assert.is(
    tokenizer.numUnknownCharacters(`${history}<s>he he</s>`, options),
    'he he'.length + '<s>x'.length,
  );
});

test('what a caller does to its ids does not reach the next caller', async () => {
  const tokenizer = await withFolder({ 'config.json': llamaConfig, 'tokenizer.json': bpe }, Tokenizer.load);
  const ids = tokenizer.encode('hello');
  const copy = [...ids];
  ids.length = 0;
  assert.equal(tokenizer.encode('hello'), copy);
});

test('a long history costs a fraction of its first encoding', async () => {
  await withTinyModel(async (folder) => {
    const tokenizer = await Tokenizer.load(folder);
    const message = (i: number) =>
      `<|user|>${Array.from({ length: 500 }, (_, j) => ` ${words[(i * 500 + j) % words.length]}`).join('')}<|end|>`;
    const text = Array.from({ length: 40 }, (_, i) => message(i)).join('');
    const msOf = (action: () => void) => {
      const started = performance.now();
      action();
      return performance.now() - started;
    };
    const first = msOf(() => tokenizer.encode(text));
    const again = Math.min(...Array.from({ length: 5 }, () => msOf(() => tokenizer.encode(text))));
    assert.ok(again < first / 3, `${first} ms, then ${again} ms`);
  });
});

test('the cache forgets what was not used for longest, and never outgrows its bound', () => {
  const cache = new EncodingCache(10_000);
  const ids = Array.from({ length: 100 }, (_, i) => i);
  for (let i = 0; i < 1000; i++) {
    cache.set(`text ${i}`, ids);
    assert.equal(cache.get('text 0'), ids);
    assert.ok(cache.numBytes <= 10_000);
  }
  assert.ok(cache.numBytes > 8000);
  assert.not.ok(cache.has('text 1'));
  assert.ok(cache.has('text 999'));
});

test('the cache does not keep a text that is larger than all of it, and counts a text once', () => {
  const cache = new EncodingCache(10_000);
  cache.set('a'.repeat(10_000), [1]);
  assert.is(cache.numBytes, 0);
  for (let i = 0; i < 3; i++) cache.set('same', [1, 2]);
  const once = new EncodingCache(10_000);
  once.set('same', [1, 2]);
  assert.is(cache.numBytes, once.numBytes);
});

test('lone surrogates are remembered as they are', () => {
  const cache = new EncodingCache();
  cache.set('\ud83d', [1]);
  cache.set('\ude00', [2]);
  assert.equal([cache.get('\ud83d'), cache.get('\ude00'), cache.get('\ufffd')], [[1], [2], undefined]);
});

test.run();
