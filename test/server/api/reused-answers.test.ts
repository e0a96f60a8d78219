// Which answers are kept, and where their ids go in the prompt of the next turn.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type ChatMessage, ChatTemplate } from '../../../src/model/chat-template.js';
import { Tokenizer } from '../../../src/model/tokenizer.js';
import { ReusedAnswers } from '../../../src/server/api/reused-answers.js';
import { byteLevelTokenizer, llamaConfig, withFolder } from '../../model/model-folders.js';

const [a, b, ab, end] = [97, 98, 256, 257];
const plain = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}";

async function setUp(template = plain, maxBytes?: number) {
  const files = {
    'config.json': llamaConfig,
    'tokenizer.json': byteLevelTokenizer([['a', 'b']], ['<|end|>']),
    'tokenizer_config.json': { chat_template: template },
  };
  return withFolder(files, async (folder) => {
    const tokenizer = await Tokenizer.load(folder);
    const chatTemplate = await ChatTemplate.load(folder, tokenizer);
    const answers = new ReusedAnswers(tokenizer, chatTemplate, maxBytes);
    const encode = (messages: readonly ChatMessage[], options = {}) =>
      answers.encode(
        chatTemplate.renderChat(messages, options),
        messages,
        options,
        false,
        async (text, addSpecialTokens) => tokenizer.encode(text, { addSpecialTokens }),
      );
    return { answers, encode, tokenizer };
  });
}

const history = (answer: string): ChatMessage[] => [
  { role: 'user', content: 'ab' },
  { role: 'assistant', content: answer },
  { role: 'user', content: 'ab' },
];

test('an answer that was generated in another split keeps its ids, and only the answer does', async () => {
  const { answers, encode, tokenizer } = await setUp();
  answers.remember('abab', [a, b, ab, end]);
  const ids = await encode(history('abab'));
  assert.is(
    tokenizer.decode(ids!, { skipSpecialTokens: false }),
    '[user]ab<|end|>[assistant]abab<|end|>[user]ab<|end|>',
  );
  const prefix = [...tokenizer.encode('[user]'), ab, end, ...tokenizer.encode('[assistant]')];
  assert.equal(ids!.slice(0, prefix.length + 4), [...prefix, a, b, ab, end]);
  assert.equal(ids!.slice(-2), [ab, end]);
});

test('of an answer of another node the ids are enough, unless they are none of this tokenizer', async () => {
  const { answers, encode } = await setUp();
  for (const tokenIds of [[a, 300], [], [end]]) answers.rememberIds(tokenIds);
  assert.is(await encode(history('ab')), null);
  answers.rememberIds([a, b, end]);
  const ids = await encode(history('ab'));
  // The answer as it was generated, what the user says as the tokenizer splits it.
  assert.ok(ids!.join().includes([a, b, end].join()));
  assert.is(ids!.filter((id) => id === ab).length, 2);
});

test('an unknown answer, one that goes on, and one that the user says are encoded as any text', async () => {
  const { answers, encode } = await setUp();
  answers.remember('abab', [a, b, ab]);
  assert.is(await encode(history('ab')), null);
  assert.is(await encode([{ role: 'user', content: 'abab' }]), null);
  const open = { continueFinalMessage: true, addGenerationPrompt: false };
  assert.is(await encode(history('abab').slice(0, 2), open), null);
});

test('ids that are not exactly their text are not kept', async () => {
  const { answers, encode } = await setUp();
  // Cut by a stop string, and with a special token inside.
  answers.remember('ab', [a, b, ab]);
  answers.remember('ab', [a, end, b]);
  answers.remember('', [end]);
  assert.is(await encode(history('ab')), null);
});

test('a template that changes the answer gets nothing spliced in', async () => {
  for (const change of ['[:2]', ' | upper', ' | replace("b", "c")']) {
    const changing = plain.replace("m['content']", `m['content']${change}`);
    const { answers, encode } = await setUp(changing);
    answers.remember('abab', [a, b, ab]);
    assert.is(await encode(history('abab')), null, change);
  }
});

test('a message that looks like a mark is left alone, and memory is bounded', async () => {
  const { answers, encode } = await setUp(plain, 400);
  answers.remember('abab', [a, b, ab]);
  const [question, answer] = history('abab');
  assert.is(await encode([{ role: 'user', content: '\u{e000}1\u{e001}' }, answer!, question!]), null);
  for (let i = 1; i < 30; i++)
    answers.remember(`${'ab'.repeat(i)}a`, [...Array.from({ length: i }, () => ab), a]);
  assert.is(await encode(history('abab')), null);
});

test.run();
