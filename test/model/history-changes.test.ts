// Templates that change an answer, and the token from which on its KV is lost.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ChatTemplate } from '../../src/model/chat-template.js';
import { historyChanges } from '../../src/model/history-changes.js';
import { Tokenizer } from '../../src/model/tokenizer.js';
import { byteLevelTokenizer, llamaConfig, withFolder } from './model-folders.js';

/** Bytes are tokens, so counts are lengths. */
const changesOf = (content: string, generationPrompt = 'assistant:') =>
  withFolder(
    {
      'config.json': llamaConfig,
      'tokenizer.json': byteLevelTokenizer([], ['<|end|>']),
      'tokenizer_config.json': {
        chat_template:
          `{% for m in messages %}{{ m['role'] + ':' }}{% set content = m['content'] %}${content}<|end|>{% endfor %}` +
          `{% if add_generation_prompt %}${generationPrompt}{% endif %}`,
      },
    },
    async (folder) => {
      const tokenizer = await Tokenizer.load(folder);
      return historyChanges(tokenizer, await ChatTemplate.load(folder, tokenizer));
    },
  );

// 'user:A question.' and an end token, then 'assistant:'.
const numPromptTokens = 16 + 1 + 10;

test('a template that keeps answers changes nothing', async () => {
  assert.equal(await changesOf('{{ content }}'), []);
});

test('one that strips reasoning loses an answer from its first token', async () => {
  const [change, ...others] = await changesOf("{{ content.split('</think>\\n\\n')[-1] }}");
  assert.equal(others, []);
  assert.is(change!.answer, 'reasoning');
  assert.is(change!.num_reusable_tokens, numPromptTokens);
  assert.is(change!.num_tokens, numPromptTokens + '<think>\nA thought.\n</think>\n\nAn answer.'.length);
  assert.is(change!.generated, '<think>\n');
  assert.is(change!.rendered, 'An answe');
});

test('one that trims loses an answer that begins with white space', async () => {
  const changes = await changesOf('{{ content | trim }}');
  assert.equal(
    changes.map(({ answer, num_reusable_tokens }) => [answer, num_reusable_tokens]),
    [['white_space', numPromptTokens]],
  );
});

test('a generation prompt that history does not repeat loses every answer, and a part of the prompt', async () => {
  const changes = await changesOf('{{ content }}', 'assistant:<think>');
  assert.equal(
    changes.map(({ answer }) => answer),
    ['plain', 'reasoning', 'white_space'],
  );
  assert.is(changes[0]!.num_reusable_tokens, numPromptTokens);
});

test.run();
