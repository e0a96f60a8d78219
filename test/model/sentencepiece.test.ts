// SentencePiece-style tokenizers as Llama 2, Mistral and Phi-3 publish them (BPE), and Unigram ones.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Detokenizer } from '../../src/model/detokenizer.js';
import { Tokenizer } from '../../src/model/tokenizer.js';
import { llamaConfig, withFolder } from './model-folders.js';

const bytes = Array.from(
  { length: 256 },
  (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
);
const words = ['▁', 'a', 'b', 'c', '▁a', '▁b', 'ab', '▁ab', '▁▁'];
const vocab = ['<unk>', '<s>', '</s>', ...bytes, ...words, '<|end|>'];
const merges = [
  ['▁', 'a'],
  ['▁', 'b'],
  ['▁a', 'b'],
  ['a', 'b'],
  ['▁', '▁'],
];

const added = (content: string, extra: object = {}) => ({
  id: vocab.indexOf(content),
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
  ...extra,
});
const addedTokens = ['<unk>', '<s>', '</s>', '<|end|>'].map((content) => added(content));
const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false };
const fallback = [
  { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
  { type: 'ByteFallback' },
  { type: 'Fuse' },
  { type: 'Strip', content: ' ', start: 1, stop: 0 },
];
const bpe = {
  type: 'BPE',
  unk_token: '<unk>',
  fuse_unk: true,
  byte_fallback: true,
  ignore_merges: false,
  vocab: Object.fromEntries(vocab.map((token, id) => [token, id])),
  merges,
};

const files: Readonly<Record<string, object>> = {
  'BPE with a prepending normalizer (Llama 2, Phi-3)': {
    added_tokens: addedTokens,
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: 'Sequence', decoders: fallback },
    model: bpe,
  },
  'BPE with Metaspace (Mistral)': {
    added_tokens: addedTokens,
    normalizer: null,
    pre_tokenizer: metaspace,
    post_processor: null,
    decoder: { type: 'Sequence', decoders: fallback },
    model: bpe,
  },
  'Unigram with Metaspace': {
    added_tokens: addedTokens,
    normalizer: null,
    pre_tokenizer: { ...metaspace, prepend_scheme: 'always', split: true },
    post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [{ type: 'ByteFallback' }, { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' }],
    },
    model: {
      type: 'Unigram',
      unk_id: 0,
      byte_fallback: true,
      vocab: vocab.map((token) => [token, words.includes(token) ? -4 / token.length : 0]),
    },
  },
};

const load = (json: object) =>
  withFolder({ 'config.json': llamaConfig, 'tokenizer.json': json }, (folder) => Tokenizer.load(folder));

const pushedOneByOne = (tokenizer: Tokenizer, ids: readonly number[]) => {
  const detokenizer = new Detokenizer(tokenizer);
  return [...ids.map((id) => detokenizer.push([id])), detokenizer.flush()];
};

for (const [name, json] of Object.entries(files)) {
  test(`${name}: texts come back`, async () => {
    const tokenizer = await load(json);
    for (const text of ['a', 'ab a b', 'a ab ab', 'cab c']) {
      assert.is(tokenizer.decode(tokenizer.encode(text)), text);
    }
  });

  test(`${name}: a generation that goes on keeps every word's space`, async () => {
    const tokenizer = await load(json);
    const ids = ['▁ab', '▁a', 'c', '▁b'].map((token) => tokenizer.idOf(token)!);
    assert.equal(pushedOneByOne(tokenizer, ids), [' ab', ' a', 'c', ' b', '']);
  });

  test(`${name}: a special token in a text is one id, and left out of answers`, async () => {
    const tokenizer = await load(json);
    const end = tokenizer.idOf('<|end|>')!;
    const ids = tokenizer.encode('ab<|end|>ab');
    assert.is(ids.filter((id) => id === end).length, 1);
    assert.is(pushedOneByOne(tokenizer, [tokenizer.idOf('▁a')!, end, tokenizer.idOf('b')!]).join(''), ' ab');
  });
}

for (const name of Object.keys(files).filter((file) => file.startsWith('BPE'))) {
  test(`${name}: characters beyond the vocabulary are bytes, held back until they are whole`, async () => {
    const tokenizer = await load(files[name]!);
    const ids = tokenizer.encode('a€ b');
    assert.equal(tokenizer.tokenStrings(ids), ['▁a', '<0xE2>', '<0x82>', '<0xAC>', '▁b']);
    assert.is(tokenizer.decode(ids), 'a€ b');
    assert.equal(pushedOneByOne(tokenizer, ids), [' a', '', '', '€', ' b', '']);
    // A word ends a character that never became whole.
    const broken = [ids[1]!, ids[2]!, ids[4]!];
    assert.is(pushedOneByOne(tokenizer, broken).join(''), '\ufffd b');
  });
}

test.run();
