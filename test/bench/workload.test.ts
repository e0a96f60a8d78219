// Workload files: the three shapes that are read, and a sentence with the field's path for everything else.
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Conversation, UserTurn } from '../../src/bench/conversation.js';
import { createConversations, planConversations } from '../../src/bench/create-conversations.js';
import { readWorkload } from '../../src/bench/workload.js';
import { VllmPdError } from '../../src/errors.js';

const generate = {
  filetype: 'generate_conversations',
  num_conversations: 3,
  text_files: [] as string[],
  print_stats: false,
  prompt_input: {
    num_turns: { distribution: 'uniform', min: 4, max: 7 },
    common_prefix_num_tokens: { distribution: 'constant', value: 5 },
    prefix_num_tokens: { distribution: 'lognormal', average: 100, max: 300 },
    num_tokens: { distribution: 'uniform', min: 10, max: 20 },
  },
  prompt_output: { num_tokens: { distribution: 'uniform', min: 8, max: 12 } },
};

const list = [
  {
    id: 'first',
    messages: [
      { role: 'user', content: 'one two' },
      { role: 'assistant', content: 'three four five' },
      { role: 'user', content: 'six' },
    ],
  },
];

/** A word is a token. */
const countWords = async (text: string) => text.split(' ').filter(Boolean).length;

const textOf = ({ messages }: UserTurn) => messages.map(({ content }) => content).join('');

const spoken = (conversations: readonly Conversation[]) =>
  conversations.map(({ id, turns }) => [id, ...turns.map((turn) => [textOf(turn), turn.numOutputTokens])]);

const test = suite<{ folder: string; write(name: string, json: unknown): string }>('workload');

test.before.each((context) => {
  const folder = mkdtempSync(path.join(tmpdir(), 'vllm-pd-workload-'));
  context.folder = folder;
  context.write = (name, json) => {
    const file = path.join(folder, name);
    writeFileSync(file, typeof json === 'string' ? json : JSON.stringify(json));
    return file;
  };
});
test.after.each(({ folder }) => rmSync(folder, { recursive: true }));

test('vLLM’s generate_conversations file is read as it is', ({ write }) => {
  const workload = readWorkload(write('synthetic.json', generate));
  assert.is(workload.name, 'synthetic');
  assert.is(workload.numClients, 1);
  assert.is(workload.source.kind, 'generated');
  assert.match(workload.sha256, /^[0-9a-f]{64}$/);
});

test('vLLM’s conversation file is read as it is; its answers only give lengths', async ({ write }) => {
  const workload = readWorkload(write('chats.json', list));
  const { conversations } = await createConversations(workload, countWords);
  assert.equal(spoken(conversations), [['first', ['one two', 3], ['six', 128]]]);
});

test('a workload carries either shape, or names a file beside it', ({ write }) => {
  write('chats.json', list);
  write('synthetic.json', generate);
  const own = { name: 'mine', seed: 4, num_clients: 2, evict_prefill_between_turns: true };
  const listed = readWorkload(write('a.json', { ...own, conversations: 'chats.json' }));
  assert.is(listed.source.kind, 'dataset');
  assert.equal([listed.name, listed.seed, listed.numClients], ['mine', 4, 2]);
  assert.is(listed.evictPrefillBetweenTurns, true);
  const { filetype, ...withoutType } = generate;
  assert.is(filetype, 'generate_conversations');
  assert.is(readWorkload(write('b.json', { ...own, conversations: withoutType })).source.kind, 'generated');
  assert.is(readWorkload(write('c.json', { ...own, conversations: list })).source.kind, 'listed');
});

test('every workload of the package can be read by its name', () => {
  const folder = fileURLToPath(new URL('../../../workloads', import.meta.url));
  const names = readdirSync(folder).filter((name) => name.endsWith('.json'));
  assert.ok(names.length >= 5);
  for (const name of names) assert.ok(readWorkload(path.basename(name, '.json')).name);
});

const bad: readonly (readonly [string, unknown, RegExp])[] = [
  ['no JSON', '{"name":', /Expected .* to be a JSON file/],
  ['a number', 7, /Expected .* to be a workload .* received a number/],
  ['an object of neither shape', { conversation: [] }, /an object with the keys conversation/],
  ['an empty list', [], /the whole file/],
  ['no name', { conversations: list }, /, name: /],
  ['an unknown field', { name: 'x', conversations: list, num_client: 2 }, /num_client/],
  ['no clients', { name: 'x', conversations: list, num_clients: 0 }, /, num_clients: /],
  ['a missing distribution', { ...generate, prompt_output: {} }, /, prompt_output\.num_tokens: /],
  [
    'an unknown distribution',
    { ...generate, prompt_output: { num_tokens: { distribution: 'normal' } } },
    /prompt_output\.num_tokens\.distribution/,
  ],
  [
    'min above max',
    { ...generate, prompt_output: { num_tokens: { distribution: 'uniform', min: 3, max: 2 } } },
    /expected min to be at most max/,
  ],
  [
    'lognormal with both parametrisations',
    {
      ...generate,
      prompt_output: { num_tokens: { distribution: 'lognormal', average: 3, mean: 1, sigma: 1 } },
    },
    /either average/,
  ],
  [
    'an embedded shape at fault',
    { name: 'x', conversations: { num_conversations: 1 } },
    /conversations\.prompt_input/,
  ],
  [
    'an assistant that begins',
    { name: 'x', conversations: [{ id: 'a', messages: [{ role: 'assistant', content: 'x' }] }] },
    /conversations\.0\.messages: /,
  ],
  [
    'an unknown role',
    { name: 'x', conversations: [{ id: 'a', messages: [{ role: 'cat', content: 'x' }] }] },
    /conversations\.0\.messages\.0\.role: /,
  ],
  ['the same id twice', { name: 'x', conversations: [list[0], list[0]] }, /id of its own/],
  ['a conversation file that is missing', { name: 'x', conversations: 'gone.json' }, /gone\.json/],
  [
    'a negative number of blocks',
    { name: 'x', conversations: list, engine: { prefill: { num_blocks: -1 } } },
    /engine\.prefill\.num_blocks/,
  ],
];

for (const [name, json, message] of bad) {
  test(`${name} is refused with the field's path`, ({ write }) => {
    try {
      readWorkload(write('bad.json', json));
    } catch (error) {
      assert.instance(error, VllmPdError);
      assert.is((error as VllmPdError).code, 'BAD_FILE');
      assert.match((error as VllmPdError).message, message);
      return;
    }
    assert.unreachable('it was accepted');
  });
}

test('a name that is neither a file nor a workload is NOT_FOUND', () => {
  assert.throws(
    () => readWorkload('no-such-workload'),
    (error: VllmPdError) => error.code === 'NOT_FOUND',
  );
});

test('lengths depend on the seed alone, and each conversation on its own stream', ({ write }) => {
  const { source } = readWorkload(write('a.json', generate));
  if (source.kind !== 'generated') return assert.unreachable();
  const plans = planConversations(source.config, 5);
  assert.equal(plans, planConversations(source.config, 5));
  assert.not.equal(plans, planConversations(source.config, 6));
  assert.equal(planConversations({ ...source.config, num_conversations: 2 }, 5), plans.slice(0, 2));
  for (const { turns, numPrefixTokens } of plans) {
    assert.ok(turns.length >= 2 && turns.length <= 4);
    assert.ok(numPrefixTokens <= 300);
    assert.ok(turns.every(({ numInputTokens: n }) => n >= 10 && n <= 20));
    assert.ok(turns.every(({ numOutputTokens: n }) => n >= 8 && n <= 12));
  }
});

test('texts have the planned number of tokens; the common prefix is common and the rest is not', async ({
  write,
}) => {
  const workload = readWorkload(write('a.json', generate));
  if (workload.source.kind !== 'generated') return assert.unreachable();
  const plans = planConversations(workload.source.config, workload.seed);
  const { conversations } = await createConversations(workload, countWords);
  assert.equal(conversations, (await createConversations(workload, countWords)).conversations);
  for (const [i, { id, turns }] of conversations.entries()) {
    assert.is(id, `CONV_ID_${i}`);
    const lengths = await Promise.all(turns.map((turn) => countWords(textOf(turn))));
    const planned = plans[i]!.turns.map(({ numInputTokens }) => numInputTokens);
    planned[0]! += 5 + plans[i]!.numPrefixTokens;
    assert.equal(lengths, planned);
  }
  const words = conversations.map(({ turns }) => textOf(turns[0]!).split(' ').filter(Boolean));
  assert.equal(words[0]!.slice(0, 5), words[1]!.slice(0, 5));
  assert.not.equal(words[0]!.slice(5, 10), words[1]!.slice(5, 10));
});

test('words are taken from the text files of the workload', async ({ write }) => {
  write('book.txt', 'alpha beta\n gamma');
  const { conversations } = await createConversations(
    readWorkload(write('a.json', { ...generate, text_files: ['book.txt'] })),
    countWords,
  );
  const words = new Set(textOf(conversations[0]!.turns[0]!).split(' ').filter(Boolean));
  assert.equal([...words].sort(), ['alpha', 'beta', 'gamma']);
});

test('a text file that is missing is BAD_FILE', async ({ write }) => {
  const workload = readWorkload(write('a.json', { ...generate, text_files: ['gone.txt'] }));
  const error = await createConversations(workload, countWords).catch((caught: unknown) => caught);
  assert.is((error as VllmPdError).code, 'BAD_FILE');
});

test.run();
