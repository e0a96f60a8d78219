// Tokenizer and detokenizer on a byte-level BPE vocabulary with merges, and on one with byte fallback.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Detokenizer } from '../../src/model/detokenizer.js';
import { Tokenizer } from '../../src/model/tokenizer.js';
import { byteLevelTokenizer, createRandom, errorOf, llamaConfig, withFolder } from './model-folders.js';

// 'é' is C3 A9 and '€' E2 82 AC: the merges below cut both at odd places.
const merges = [
  ['h', 'e'],
  ['l', 'l'],
  ['he', 'll'],
  ['Ġ', 'hell'],
  ['o', 'Ã'],
  ['Ĥ', '¬'],
  ['Ġ', ','],
] as const;

const specials = ['<s>', '</s>'];

function loadFrom(json: object, config: object = {}): Promise<Tokenizer> {
  const files = { 'config.json': llamaConfig, 'tokenizer.json': json, 'tokenizer_config.json': config };
  return withFolder(files, Tokenizer.load);
}

const loadByteLevel = () =>
  loadFrom(byteLevelTokenizer(merges, specials), { bos_token: '<s>', eos_token: { content: '</s>' } });

/** Llama 2's scheme: words with '▁', unknown characters as `<0xNN>`. */
function loadByteFallback(): Promise<Tokenizer> {
  const bytes = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
  );
  const vocab = ['<unk>', ...bytes, '▁', 'a', 'b', '▁a', '▁b', 'ab'];
  return loadFrom({
    added_tokens: [{ id: 0, content: '<unk>', special: true }],
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      byte_fallback: true,
      fuse_unk: true,
      vocab: Object.fromEntries(vocab.map((token, id) => [token, id])),
      merges: [
        ['▁', 'a'],
        ['▁', 'b'],
      ],
    },
  });
}

test('merges apply, and decoding gives the text back', async () => {
  const tokenizer = await loadByteLevel();
  const ids = tokenizer.encode('hello hello');
  assert.equal(tokenizer.tokenStrings(ids), ['hell', 'o', 'Ġhell', 'o']);
  assert.is(tokenizer.decode(ids), 'hello hello');
});

test('spaces before punctuation survive decoding', async () => {
  const tokenizer = await loadByteLevel();
  const text = ' he , he . he !';
  assert.is(tokenizer.decode(tokenizer.encode(text)), text);
});

test('special tokens are known by id and role, and left out on request', async () => {
  const tokenizer = await loadByteLevel();
  const [bos, eos] = [263, 264];
  assert.is(tokenizer.vocabSize, 265);
  assert.equal(tokenizer.specialTokenIds, [bos, eos]);
  assert.equal(tokenizer.specialTokens, { bos_token: '<s>', eos_token: '</s>' });
  assert.is(tokenizer.idOf('</s>'), eos);
  const ids = tokenizer.encode('<s>hell</s>');
  assert.equal(ids, [bos, 258, eos]);
  assert.is(tokenizer.decode(ids), 'hell');
  assert.is(tokenizer.decode(ids, { skipSpecialTokens: false }), '<s>hell</s>');
});

test('a beginning-of-text token is added unless told otherwise', async () => {
  const item = { SpecialToken: { id: '<s>', type_id: 0 } };
  const processor = {
    type: 'TemplateProcessing',
    single: [item, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [],
    special_tokens: { '<s>': { id: '<s>', ids: [263], tokens: ['<s>'] } },
  };
  const json = { ...byteLevelTokenizer(merges, specials), post_processor: processor };
  const tokenizer = await loadFrom(json);
  assert.equal(tokenizer.encode('he'), [263, 256]);
  assert.equal(tokenizer.encode('he', { addSpecialTokens: false }), [256]);
});

test('empty texts and lists are fine', async () => {
  const tokenizer = await loadByteLevel();
  assert.equal(tokenizer.encode(''), []);
  assert.is(tokenizer.decode([]), '');
  assert.is(tokenizer.decode([263]), '');
});

test('an id outside the vocabulary is refused by decode, and adds nothing to a generation', async () => {
  const tokenizer = await loadByteLevel();
  for (const id of [-1, 265, 1e9, 0.5]) {
    assert.is((await errorOf(() => tokenizer.decode([256, id]))).code, 'INVALID_ARGUMENT');
    assert.is((await errorOf(() => tokenizer.tokenStrings([id]))).code, 'INVALID_ARGUMENT');
    assert.is(new Detokenizer(tokenizer).push([256, id]), 'he');
  }
});

test('a character that is spread over tokens appears when it is complete', async () => {
  const tokenizer = await loadByteLevel();
  const ids = tokenizer.encode('oé€');
  assert.equal(tokenizer.tokenStrings(ids), ['oÃ', '©', 'â', 'Ĥ¬']);
  const detokenizer = new Detokenizer(tokenizer);
  assert.equal(
    ids.map((id) => detokenizer.push([id])),
    ['o', 'é', '', '€'],
  );
  assert.is(detokenizer.flush(), '');
});

test('a character that never completes comes out as U+FFFD at the end', async () => {
  const tokenizer = await loadByteLevel();
  const ids = tokenizer.encode('é😀').slice(0, -1);
  const detokenizer = new Detokenizer(tokenizer);
  assert.is(detokenizer.push(ids), 'é');
  assert.is(detokenizer.flush(), '\ufffd');
  assert.is(detokenizer.flush(), '');
});

test('pushed one by one, any ids give the text of decoding them all', async () => {
  for (const tokenizer of [await loadByteLevel(), await loadByteFallback()]) {
    const random = createRandom(1);
    for (let round = 0; round < 300; round++) {
      const ids = Array.from({ length: 12 }, () => Math.floor(random() * tokenizer.vocabSize));
      for (const skipSpecialTokens of [true, false]) {
        const detokenizer = new Detokenizer(tokenizer, { skipSpecialTokens });
        const text = ids.map((id) => detokenizer.push([id])).join('') + detokenizer.flush();
        const whole = tokenizer.decode(ids, { skipSpecialTokens });
        // A generation goes on after a prompt, so its first word keeps the space that a text's first word loses.
        assert.is(whole === text || ` ${whole}` === text, true, `${JSON.stringify([ids, text, whole])}`);
      }
    }
  }
});

test('a byte-order mark is kept', async () => {
  const tokenizer = await loadByteLevel();
  const text = '\ufeffhe';
  const ids = tokenizer.encode(text);
  assert.is(tokenizer.decode(ids), text);
  assert.is(new Detokenizer(tokenizer).push(ids), text);
});

test('byte fallback: bytes join to characters, words keep their space', async () => {
  const tokenizer = await loadByteFallback();
  const ids = tokenizer.encode('a b€');
  assert.is(tokenizer.decode(ids), 'a b€');
  const detokenizer = new Detokenizer(tokenizer);
  assert.equal(
    ids.map((id) => detokenizer.push([id])),
    [' a', ' b', '', '', '€'],
  );
});

test('detokenising stays linear: a long run of broken bytes is not looked at again and again', async () => {
  const tokenizer = await loadByteLevel();
  const detokenizer = new Detokenizer(tokenizer);
  const continuation = tokenizer.encode('é')[1]!;
  const started = performance.now();
  let length = 0;
  for (let i = 0; i < 200_000; i++) length += detokenizer.push([continuation]).length;
  assert.is(length + detokenizer.flush().length, 200_000);
  assert.ok(performance.now() - started < 10_000);
});

const refusals: readonly (readonly [what: string, json: object | string, message: RegExp])[] = [
  ['no JSON', '{"model":', /tokenizer\.json: is not valid JSON/],
  ['a list', '[]', /tokenizer\.json: is not a tokenizer/],
  ['null', 'null', /is not a JSON object/],
  ['no model', { added_tokens: [] }, /is not a tokenizer/],
  [
    'an unknown model type',
    { ...byteLevelTokenizer([], []), model: { type: 'Psychic', vocab: [] } },
    /is not a tokenizer/,
  ],
];

for (const [what, json, message] of refusals) {
  test(`a tokenizer.json with ${what} is refused`, async () => {
    const files = { 'config.json': llamaConfig, 'tokenizer.json': json };
    const error = await withFolder(files, (folder) => errorOf(() => Tokenizer.load(folder)));
    assert.is(error.code, 'BAD_FILE');
    assert.match(error.message, message);
  });
}

test('a folder without tokenizer.json says so', async () => {
  const error = await withFolder({ 'config.json': llamaConfig }, (folder) =>
    errorOf(() => Tokenizer.load(folder)),
  );
  assert.match(error.message, /tokenizer\.json: is missing/);
});

test.run();
