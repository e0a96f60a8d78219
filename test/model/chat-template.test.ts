// Chat templates: where they are found, what reaches them, and what they refuse.
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type ChatMessage, ChatTemplate, type RenderChatOptions } from '../../src/model/chat-template.js';
import { Tokenizer } from '../../src/model/tokenizer.js';
import { byteLevelTokenizer, errorOf, type Files, llamaConfig, withFolder } from './model-folders.js';

const source =
  "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}{{ eos_token }}{% endfor %}" +
  '{% if add_generation_prompt %}[assistant]{% endif %}';

const config = (chatTemplate: unknown) => ({
  bos_token: '<s>',
  eos_token: '</s>',
  chat_template: chatTemplate,
});

function load(
  tokenizerConfig: object,
  files: Files = {},
  given: string | null = null,
): Promise<ChatTemplate> {
  const all = {
    'config.json': llamaConfig,
    'tokenizer.json': byteLevelTokenizer([], ['<s>', '</s>']),
    'tokenizer_config.json': tokenizerConfig,
    ...files,
  };
  return withFolder(all, async (folder) => ChatTemplate.load(folder, await Tokenizer.load(folder), given));
}

const user = (content: ChatMessage['content']): ChatMessage => ({ role: 'user', content });

test('messages, special tokens and the generation prompt are rendered', async () => {
  const template = await load(config(source));
  assert.is(template.renderChat([user('hi')]), '<s>[user]hi</s>[assistant]');
  assert.is(template.renderChat([user('hi')], { addGenerationPrompt: false }), '<s>[user]hi</s>');
  const ids = template.encodeChat([user('h')], { addGenerationPrompt: false });
  assert.equal([ids[0], ids.at(-1)], [256, 257]);
});

test('chat_template.jinja goes before tokenizer_config.json, and of several the default one is taken', async () => {
  const named = [
    { name: 'tool_use', template: 'tools' },
    { name: 'default', template: 'plain' },
  ];
  assert.is((await load(config(named))).renderChat([user('hi')]), 'plain');
  const file = { 'chat_template.jinja': 'from the file' };
  assert.is((await load(config(named), file)).renderChat([user('hi')]), 'from the file');
});

test('chat_template.json goes before tokenizer_config.json and behind the jinja file', async () => {
  const json = { 'chat_template.json': { chat_template: 'from the json' } };
  assert.is((await load(config('plain'), json)).renderChat([user('hi')]), 'from the json');
  const both = { ...json, 'chat_template.jinja': 'from the file' };
  assert.is((await load(config('plain'), both)).renderChat([user('hi')]), 'from the file');
});

test('a model with a template of its own for tools uses it where a request brings some', async () => {
  const named = [
    { name: 'tool_use', template: 'tools {{ tools[0] }}' },
    { name: 'default', template: 'plain' },
  ];
  const beside = {
    'chat_template.jinja': 'plain',
    'additional_chat_templates/tool_use.jinja': 'tools {{ tools[0] }}',
  };
  for (const template of [await load(config(named)), await load({}, beside)]) {
    assert.is(template.renderChat([user('hi')]), 'plain');
    assert.is(template.renderChat([user('hi')], { tools: ['a'] }), 'tools a');
  }
  const alone = await load(config('plain {{ tools is none }}'));
  assert.is(alone.renderChat([user('hi')], { tools: ['a'] }), 'plain false');
});

test("--chat-template goes before all of the model's: a file, or the template itself", async () => {
  const given = (text: string) => load(config(source), {}, text);
  assert.is((await given("{{ messages[0]['content'] }}!")).renderChat([user('hi')]), 'hi!');
  await withFolder({ 'other.jinja': '{{ messages | length }} from a file' }, async (folder) => {
    const template = await given(path.join(folder, 'other.jinja'));
    assert.is(template.renderChat([user('hi')]), '1 from a file');
    assert.is(template.source, path.join(folder, 'other.jinja'));
  });
  const broken = await errorOf(() => given('{% if %}'));
  assert.is(broken.code, 'INVALID_ARGUMENT');
  assert.match(broken.message, /for --chat-template, but the chat template does not parse/);
  assert.match((await errorOf(() => given('/nowhere.jinja'))).message, /its file cannot be read/);
});

test('a list of text parts is rendered as lines', async () => {
  const template = await load(config(source));
  const parts = [
    { type: 'text', text: 'one' },
    { type: 'text', text: 'two' },
  ] as const;
  assert.is(template.renderChat([user(parts)]), '<s>[user]one\ntwo</s>[assistant]');
});

test('the last message can be left open, also where the template trims it', async () => {
  const template = await load(config(source));
  const options = { addGenerationPrompt: false, continueFinalMessage: true };
  const messages = [user('Begin'), { role: 'assistant', content: ' Begin ' }];
  assert.is(template.renderChat(messages, options), '<s>[user]Begin</s>[assistant]Begin');
});

test('tools and further variables reach the template', async () => {
  const template = await load(config('{{ tools[0].name }} {{ enable_thinking }}'));
  const options = { tools: [{ name: 'search' }], chatTemplateKwargs: { enable_thinking: false } };
  assert.is(template.renderChat([user('hi')], options), 'search false');
});

test('a model without a template loads, and refuses messages only when they come', async () => {
  const template = await load({});
  assert.is(template.isPresent, false);
  const error = await errorOf(() => template.renderChat([user('hi')]));
  assert.is(error.code, 'INVALID_ARGUMENT');
  assert.match(error.message, 'has no chat template');
});

const image = { type: 'image_url', image_url: { url: 'x' } } as unknown as { type: 'text'; text: string };

const refusals: readonly (readonly [
  what: string,
  template: string,
  messages: ChatMessage[],
  options: RenderChatOptions,
  message: RegExp,
])[] = [
  ['the template raises', "{{ raise_exception('Roles must alternate') }}", [user('a')], {}, /must alternate/],
  ['the template fails', '{{ messages | no_such_filter }}', [user('a')], {}, /refuses these messages/],
  ['a part is an image', source, [user([image])], {}, /Only text parts are supported .*image_url/],
  [
    'a message is continued and answered',
    source,
    [user('a')],
    { continueFinalMessage: true },
    /both be true/,
  ],
  [
    'there is nothing to continue',
    'nothing',
    [user('a')],
    { continueFinalMessage: true, addGenerationPrompt: false },
    /continue_final_message needs/,
  ],
];

for (const [what, chatTemplate, messages, options, message] of refusals) {
  test(`${what}: INVALID_ARGUMENT`, async () => {
    const template = await load(config(chatTemplate));
    const error = await errorOf(() => template.renderChat(messages, options));
    assert.is(error.code, 'INVALID_ARGUMENT');
    assert.is(error.param, 'messages');
    assert.match(error.message, message);
  });
}

test('a template that does not parse is a bad file', async () => {
  const error = await errorOf(() => load(config('{% for %}')));
  assert.is(error.code, 'BAD_FILE');
  assert.match(error.message, 'the chat template does not parse');
});

test.run();
