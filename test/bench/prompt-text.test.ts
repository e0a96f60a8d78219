// Texts of an exact number of tokens, whatever the tokenizer makes of a word.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { textOfTokens, wordSource } from '../../src/bench/prompt-text.js';
import { Random } from '../../src/bench/random.js';

const tokenizers: Record<string, (text: string) => number> = {
  words: (text) => text.split(' ').filter(Boolean).length,
  bytes: (text) => Buffer.byteLength(text),
  // Pieces of three characters of a word with its space, as a byte-pair encoding of unknown words.
  pieces: (text) => (text.match(/ [^ ]{0,2}|[^ ]{1,3}/g) ?? []).length,
};

for (const [name, count] of Object.entries(tokenizers)) {
  for (const numTokens of [1, 2, 7, 64, 500]) {
    test(`${numTokens} tokens of ${name}`, async () => {
      let calls = 0;
      const text = await textOfTokens(numTokens, wordSource([], new Random(1, 'x')), async (candidate) => {
        calls++;
        return count(candidate);
      });
      assert.is(count(text), numTokens, text);
      assert.ok(name !== 'words' || calls === 1, `${calls} calls`);
      assert.ok(calls <= 24, `${calls} calls`);
    });
  }
}

test('no tokens are no text and no call', async () => {
  const refuse = async () => assert.unreachable() as never;
  assert.is(await textOfTokens(0, () => 'word', refuse), '');
});

test.run();
