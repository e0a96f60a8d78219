// Public datasets: each format from a small file, what is chosen of it and scaled, and a sentence for rows that are no such thing.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { UserTurn } from '../../src/bench/conversation.js';
import { createConversations } from '../../src/bench/create-conversations.js';
import { type DatasetConversation, type Filetype, Tally } from '../../src/bench/datasets/dataset.js';
import { datasetReaders, detectFiletype } from '../../src/bench/datasets/filetypes.js';
import { JsonSplitter } from '../../src/bench/datasets/json-records.js';
import { datasetLines } from '../../src/bench/datasets/report.js';
import { readWorkload } from '../../src/bench/workload.js';
import { overrideWorkload, type WorkloadOverrides } from '../../src/bench/workload-overrides.js';
import { VllmPdError } from '../../src/errors.js';

const sample = (name: string) =>
  fileURLToPath(new URL(`../../../test/bench/datasets/${name}`, import.meta.url));
const published = (name: string) =>
  fileURLToPath(new URL(`../../../../shared/data/${name}`, import.meta.url));

const countWords = async (text: string) => text.split(' ').filter(Boolean).length;

async function readAll(file: string, filetype: Filetype, maxRows = 1000) {
  const tally = new Tally();
  const conversations: DatasetConversation[] = [];
  for await (const one of datasetReaders[filetype](file, { maxRows, tally })) conversations.push(one);
  return { tally, conversations };
}

/** A turn as [what is said or how many tokens, the answer]. */
const shape = ({ id, turns }: DatasetConversation) => [
  id,
  ...turns.map(({ input, output }) => [
    input.kind === 'tokens'
      ? input.numTokens
      : input.messages.map(({ role, content }) => `${role}: ${content}`),
    output && (output.kind === 'tokens' ? output.numTokens : output.text),
  ]),
];

async function create(file: string, overrides: WorkloadOverrides, maxSequenceTokens: number | null = null) {
  const workload = overrideWorkload(readWorkload(file), overrides);
  const { conversations, dataset } = await createConversations(workload, countWords, maxSequenceTokens);
  return { conversations, report: dataset! };
}

const textOf = ({ messages }: UserTurn) => messages.map(({ content }) => content).join('');
const lengthsOf = async (turns: readonly UserTurn[]) =>
  Promise.all(turns.map(async (turn) => [await countWords(textOf(turn)), turn.numOutputTokens]));

const test = suite<{ folder: string; write(name: string, text: string): string }>('datasets');
test.before.each((context) => {
  const folder = mkdtempSync(path.join(tmpdir(), 'vllm-pd-datasets-'));
  context.folder = folder;
  context.write = (name, text) => {
    const file = path.join(folder, name);
    writeFileSync(file, text);
    return file;
  };
});
test.after.each(({ folder }) => rmSync(folder, { recursive: true }));

const samples: readonly (readonly [string, Filetype])[] = [
  ['sharegpt.json', 'sharegpt'],
  ['chats.jsonl', 'messages'],
  ['mt-bench.jsonl', 'mt-bench'],
  ['mooncake.jsonl', 'mooncake'],
  ['bailian.jsonl', 'bailian'],
  ['azure.csv', 'azure'],
  ['burstgpt.csv', 'burstgpt'],
];

for (const [name, filetype] of samples) {
  test(`${name} is told by its contents and read as a workload`, async () => {
    assert.is(detectFiletype(sample(name)), filetype);
    const { conversations, report } = await create(sample(name), { minTurns: 1 });
    assert.is(report.filetype, filetype);
    assert.ok(conversations.length > 0);
    assert.is(new Set(conversations.map(({ id }) => id)).size, conversations.length);
    assert.ok(
      conversations.every(({ turns }) => turns.every((turn) => textOf(turn) && turn.numOutputTokens > 0)),
    );
  });
}

test('parts of a ShareGPT conversation are joined, roles mapped, answers to nothing left out', async () => {
  const { tally, conversations } = await readAll(sample('sharegpt.json'), 'sharegpt');
  assert.equal(conversations.map(shape), [
    [
      'QWJhYvA',
      [['user: How do kettles work?'], 'A strip of two metals bends "} ]" in the steam.'],
      [['user: And then?'], 'It opens a switch.'],
      [['user: Thanks'], 'Tea?'],
    ],
    ['i6IyJda', [['system: Be short.', 'user: Why is the sky blue?'], 'Rayleigh.']],
  ]);
  assert.equal(tally.skipped, {
    'answers to nothing, at the beginning of a conversation': 1,
    'messages without text': 1,
  });
});

test('chats keep system and tool messages, parts of text are joined, calls of tools have their length', async () => {
  const { conversations } = await readAll(sample('chats.jsonl'), 'messages');
  assert.equal(conversations.map(shape), [
    [
      '7',
      [['system: You are a kettle.', 'user: Are you hot?'], 'Yes I am.'],
      [['user: Whistle'], '[{"function":{"name":"whistle"}}]'],
      [['tool: eeee'], 'Done'],
    ],
    ['line-3', [['system: Count.', 'user: one'], null]],
  ]);
});

test('Mooncake: a row that extends another one’s blocks is its next turn, a shared system prompt proves nothing', async () => {
  const { tally, conversations } = await readAll(sample('mooncake.jsonl'), 'mooncake');
  assert.equal(conversations.map(shape), [
    ['line-1', [1100, 100], [50, 40], [310, 20]],
    ['line-2', [600, 50]],
    // 1030 tokens cannot hold the 1290 that were said before.
    ['line-4', [1030, 10]],
    ['line-6', [700, 20]],
  ]);
  assert.equal(tally.skipped, { 'links to a turn before whose history was rewritten': 1 });
  assert.equal(
    conversations[0]!.turns.map(({ arrivalMs }) => arrivalMs),
    [0, 3000, 5000],
  );
});

test('Mooncake rows with a session_id need no hashes, and delays are kept', async ({ write }) => {
  const file = write(
    'm.jsonl',
    '{"session_id":"a","input_length":10,"output_length":5}\n{"session_id":"a","input_tokens":20,"output_tokens":6,"delay":500}\n',
  );
  const { conversations } = await readAll(file, detectFiletype(file)!);
  assert.equal(conversations.map(shape), [['a', [10, 5], [5, 6]]]);
  assert.is(conversations[0]!.turns[1]!.delayMs, 500);
});

test('Bailian: turns follow their parent, in seconds; a second child begins a conversation of its own', async () => {
  const { tally, conversations } = await readAll(sample('bailian.jsonl'), 'bailian');
  assert.equal(conversations.map(shape), [
    ['100', [40, 10], [10, 12]],
    ['102', [55, 9]],
    ['103', [16, 9]],
    ['104', [65, 9]],
  ]);
  assert.equal(tally.skipped, {
    'links to a request that another one follows already': 1,
    'links to a request that is not in the file': 1,
    'links to a turn before whose history was rewritten': 1,
  });
  assert.is(conversations[0]!.turns[1]!.arrivalMs, 20_250);
});

test('BurstGPT is read by the names of its columns: sessions where there are some, failures counted', async ({
  write,
}) => {
  const { tally, conversations } = await readAll(sample('burstgpt.csv'), 'burstgpt');
  assert.equal(conversations.map(shape), [
    ['session-12', [100, 20], [30, 30]],
    ['line-5', [70, 7]],
    ['session-12/2', [40, 10]],
  ]);
  assert.is(tally.skipped['rows without request or response tokens'], 1);
  const old = write(
    'old.csv',
    'Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n',
  );
  const { conversations: single, report } = await create(old, {});
  assert.is(single[0]!.turns.length, 1);
  assert.match(datasetLines(report).join('\n'), 'bi has nothing to reuse');
});

test('Azure: every row is a conversation of one turn, and the report says that nothing can be reused', async () => {
  const { conversations, report } = await create(sample('azure.csv'), {});
  assert.equal(await lengthsOf(conversations.flatMap(({ turns }) => turns)), [
    [374, 44],
    [2162, 5],
  ]);
  assert.equal(
    conversations.map(({ turns }) => turns[0]!.arrivalMs),
    [Date.parse('2023-11-16T18:15:46Z') + 680.59, Date.parse('2024-05-10T00:00:00Z') + 9.93],
  );
  assert.match(datasetLines(report).join('\n'), 'bi has nothing to reuse');
});

test('equal blocks become equal words, and prompts have exactly the trace’s lengths', async () => {
  const { conversations } = await create(sample('mooncake.jsonl'), { minTurns: 1 });
  assert.equal(await lengthsOf(conversations[0]!.turns), [
    [1100, 100],
    [50, 40],
    [310, 20],
  ]);
  const words = conversations.map(({ turns }) => textOf(turns[0]!).split(' ').filter(Boolean));
  assert.equal(words[1]!.slice(0, 512), words[0]!.slice(0, 512));
  assert.not.equal(words[1]!.slice(512, 520), words[0]!.slice(512, 520));
  assert.equal(words[2]!.slice(0, 1024), words[0]!.slice(0, 1024));
  assert.equal((await create(sample('mooncake.jsonl'), { minTurns: 1 })).conversations, conversations);
  const other = await create(sample('mooncake.jsonl'), { minTurns: 1, seed: 1 });
  assert.not.equal(other.conversations, conversations);
});

test('equal blocks are equal texts also where a word is several tokens', async () => {
  const workload = overrideWorkload(readWorkload(sample('mooncake.jsonl')), { minTurns: 1, scale: 0.02 });
  const count = async (text: string) => Math.ceil(text.length / 2);
  const { conversations } = await createConversations(workload, count);
  const texts = conversations.map(({ turns }) => textOf(turns[0]!));
  assert.equal(await Promise.all(texts.map(count)), [22, 12, 21, 14]);
  assert.is(texts[1]!.slice(0, 20), texts[0]!.slice(0, 20));
});

test('scale shortens every length, of texts by cutting their ends; rounding does not add up', async () => {
  const trace = await create(sample('mooncake.jsonl'), { scale: 0.1 });
  assert.equal(await lengthsOf(trace.conversations[0]!.turns), [
    [110, 10],
    [5, 4],
    [31, 2],
  ]);
  const chats = await create(sample('sharegpt.json'), { scale: 0.5 });
  assert.equal(chats.conversations[0]!.turns.map(textOf), ['How do ket', 'And t', 'Tha']);
  assert.equal(
    chats.conversations[0]!.turns.map(({ numOutputTokens }) => numOutputTokens),
    [6, 2, 1],
  );
});

test('the first conversations that qualify are chosen, and whatever is left out is counted', async () => {
  const two = await create(sample('mooncake.jsonl'), { minTurns: 1, numConversations: 2, numTurns: 2 });
  assert.equal(
    two.conversations.map(({ id, turns }) => [id, turns.length]),
    [
      ['line-1', 2],
      ['line-2', 1],
    ],
  );
  assert.is(two.report.num_conversations, 4);
  assert.is(two.report.skipped['turns behind --num-turns'], 1);
  const short = await create(sample('mooncake.jsonl'), { minTurns: 1, maxPromptTokens: 1250 });
  assert.equal(
    short.conversations.map(({ turns }) => turns.length),
    [2, 1, 1, 1],
  );
  assert.is(short.report.skipped['turns whose prompt is too long'], 1);
  const small = await create(sample('mooncake.jsonl'), { minTurns: 1 }, 900);
  assert.equal(
    small.conversations.map(({ id }) => id),
    ['line-2', 'line-6'],
  );
  assert.is(small.report.skipped['conversations whose first turns are too long'], 2);
});

test('rows behind max_rows are not looked at, and a file of texts is read no further than needed', async ({
  write,
}) => {
  const { tally, conversations } = await readAll(sample('mooncake.jsonl'), 'mooncake', 2);
  assert.equal([tally.numRows, tally.complete, conversations.length], [2, false, 2]);
  // The second record is no JSON: it must not be reached.
  const record = JSON.stringify({ id: 'a', messages: [{ role: 'user', content: 'x' }] });
  const file = write('chats.jsonl', `${record}\n${record.replace('"a"', '"b"')}\n{"messages": oops}\n`);
  const { report } = await create(file, { minTurns: 1, numConversations: 1 });
  assert.is(report.complete, false);
  assert.match(datasetLines(report).join('\n'), 'the rest of the file was not read');
});

test('a file in which nothing qualifies says what it has', async () => {
  const error = await create(sample('azure.csv'), { minTurns: 2 }).catch((caught: unknown) => caught);
  assert.is((error as VllmPdError).code, 'BAD_FILE');
  assert.match((error as VllmPdError).message, '2 conversations of fewer than 2 turns');
});

test('a workload names a dataset and what to take of it', async ({ write }) => {
  const file = write(
    'w.json',
    JSON.stringify({
      name: 'mine',
      conversations: sample('bailian.jsonl'),
      dataset: { min_turns: 1, num_conversations: 3, scale: 0.5 },
    }),
  );
  const { conversations } = await create(file, {});
  assert.is(conversations.length, 3);
  assert.equal(await lengthsOf(conversations[0]!.turns), [
    [20, 5],
    [5, 6],
  ]);
});

test('flags of datasets are refused for other workloads, and token counts for datasets', () => {
  assert.throws(
    () => overrideWorkload(readWorkload('smoke'), { maxPromptTokens: 5 }),
    /--max-prompt-tokens applies to a dataset/,
  );
  assert.throws(
    () => overrideWorkload(readWorkload(sample('azure.csv')), { outputTokens: 5 }),
    /--output-tokens applies to generated/,
  );
});

const bad: readonly (readonly [string, Filetype, string, RegExp])[] = [
  [
    'a length that is no number',
    'mooncake',
    '{"timestamp":0,"input_length":5,"output_length":1}\n{"input_length":"x","output_length":1}',
    /line 2, input_length: .*expected number/,
  ],
  [
    'a length that is missing',
    'mooncake',
    '{"timestamp":0,"input_length":5}',
    /line 1, output_length: expected a number of tokens/,
  ],
  [
    'too few block ids',
    'mooncake',
    '{"input_length":1025,"output_length":1,"hash_ids":[1,2]}',
    /hash_ids: expected one id for each 512 tokens .* received 2/,
  ],
  [
    'a role that nobody knows',
    'messages',
    '[\n{"messages":[\n{"role":"cat","content":"x"}]}]',
    /line 2, messages\.0\.role/,
  ],
  [
    'an unknown speaker',
    'sharegpt',
    '[{"id":"a","conversations":[{"from":"dog","value":"x"}]}]',
    /line 1, conversations\.0\.from/,
  ],
  ['a line that is no JSON', 'messages', '{"messages": [}', /line 1: /],
  [
    'a list that is cut off',
    'messages',
    '[{"messages":[{"role":"user","content":"x"}]},',
    /lacks its closing/,
  ],
  ['an object that is cut off', 'messages', '{"messages":[{"role":"user"', /ends in the middle/],
  ['a number among objects', 'mt-bench', '{"turns":["a"]}\n7', /line 2: expected an object but received '7'/],
  [
    'a time that is none',
    'azure',
    'TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,2',
    /line 2, TIMESTAMP: .* received 'noon'/,
  ],
  [
    'tokens that are none',
    'azure',
    'TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,-1,2',
    /line 2, ContextTokens: .* received '-1'/,
  ],
  ['a line of too few columns', 'burstgpt', 'Timestamp,Request tokens,Response tokens\n1,2', /line 2/],
  [
    'a parent that is missing',
    'bailian',
    '{"chat_id":1,"timestamp":0,"input_length":1,"output_length":1}',
    /line 1, parent_chat_id/,
  ],
];

for (const [name, filetype, text, message] of bad) {
  test(`${name} is BAD_FILE with line and field`, async ({ write }) => {
    const error = await readAll(write('bad', text), filetype).catch((caught: unknown) => caught);
    assert.instance(error, VllmPdError);
    assert.is((error as VllmPdError).code, 'BAD_FILE');
    assert.match((error as VllmPdError).message, message);
  });
}

test('objects are cut at the same places wherever the bytes are split', () => {
  const text = '\uFEFF[ {"a": "}\\"é{"},\n{"b": [{"c": "]"}]} ]\n';
  const bytes = Buffer.from(text);
  for (let at = 0; at <= bytes.length; at++) {
    const splitter = new JsonSplitter('f');
    const records = [...splitter.push(bytes.subarray(0, at)), ...splitter.push(bytes.subarray(at))];
    splitter.end();
    assert.equal(
      records.map(({ value, line }) => [value, line]),
      [
        [{ a: '}"é{' }, 1],
        [{ b: [{ c: ']' }] }, 2],
      ],
    );
  }
});

test('a published Mooncake trace keeps what its sessions must have', async () => {
  const file = published('mooncake-conversation-trace.jsonl');
  if (!existsSync(file)) return void console.log('skipped: no shared/data beside the tests');
  const { tally, conversations } = await readAll(file, detectFiletype(file)!, 200_000);
  assert.is(tally.numRows, 12_031);
  const turns = conversations.flatMap((one) => one.turns);
  assert.is(turns.length, tally.numRows);
  assert.ok(conversations.filter((one) => one.turns.length > 1).length > 1000);
  for (const { turns: own } of conversations) {
    const times = own.map(({ arrivalMs }) => arrivalMs!);
    assert.equal(
      times,
      [...times].sort((a, b) => a - b),
    );
  }
});

test('a published Azure trace is read to its end', async () => {
  const file = published('azure-llm-inference-conv.csv');
  if (!existsSync(file)) return void console.log('skipped: no shared/data beside the tests');
  const { tally } = await readAll(file, detectFiletype(file)!, 200_000);
  assert.is(tally.numRows, 19_366);
});

test('MT-Bench’s questions have two turns each', async () => {
  const file = published('mt-bench-questions.jsonl');
  if (!existsSync(file)) return void console.log('skipped: no shared/data beside the tests');
  const { conversations } = await readAll(file, detectFiletype(file)!);
  assert.is(conversations.length, 80);
  assert.ok(conversations.every(({ turns }) => turns.length === 2));
});

test.run();
