// The closed form of a turn's ledger against rows that were computed by hand.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { expectedLedger } from '../../src/bench/closed-form.js';
import { withExpectedLedgers } from '../../src/bench/closed-form-check.js';
import { beginningsOf } from '../../src/bench/shared-beginnings.js';
import { byBin, type Ledger, ledgerBins } from '../../src/wire.js';
import { createScope, createTurn } from './helpers.js';

interface Row {
  readonly name: string;
  /** Previous prompt, previous answer, this prompt; in tokens. */
  readonly lengths: readonly [number, number, number] | readonly [number];
  readonly mode: 'uni' | 'bi';
  readonly evicted?: boolean;
  readonly lookup?: 'query' | 'ticket';
  readonly blockSize?: number;
  readonly expected: Partial<Ledger>;
}

const table: readonly Row[] = [
  { name: 'a first turn is new', lengths: [200], mode: 'bi', expected: { new: 200 } },
  {
    name: 'an evicted first turn is new too',
    lengths: [200],
    mode: 'uni',
    evicted: true,
    expected: { new: 200 },
  },
  {
    name: 'uni computes what D generated',
    lengths: [200, 300, 550],
    mode: 'uni',
    expected: { local_hit: 192, partial_block: 8, generated_on_d: 299, new: 51 },
  },
  {
    name: 'bi pulls what D generated',
    lengths: [200, 300, 550],
    mode: 'bi',
    expected: { local_hit: 192, pulled_from_d: 304, partial_block: 3, new: 51 },
  },
  {
    name: 'uni computes everything after an eviction',
    lengths: [200, 300, 550],
    mode: 'uni',
    evicted: true,
    expected: { evicted: 192, partial_block: 8, generated_on_d: 299, new: 51 },
  },
  {
    name: 'bi pulls everything after an eviction',
    lengths: [200, 300, 550],
    mode: 'bi',
    evicted: true,
    expected: { pulled_from_d: 496, partial_block: 3, new: 51 },
  },
  {
    name: 'a ticket also covers the last, partial block',
    lengths: [200, 300, 550],
    mode: 'bi',
    lookup: 'ticket',
    expected: { local_hit: 192, pulled_from_d: 307, new: 51 },
  },
  {
    name: 'a previous prompt of whole blocks leaves no partial block on P',
    lengths: [192, 65, 280],
    mode: 'uni',
    expected: { local_hit: 192, generated_on_d: 64, new: 24 },
  },
  {
    name: 'a sequence of whole blocks on D leaves none there either',
    lengths: [192, 65, 280],
    mode: 'bi',
    expected: { local_hit: 192, pulled_from_d: 64, new: 24 },
  },
  {
    name: 'exactly the threshold is pulled',
    lengths: [200, 57, 300],
    mode: 'bi',
    expected: { local_hit: 192, pulled_from_d: 64, new: 44 },
  },
  {
    name: 'one block less is below the threshold',
    lengths: [200, 56, 300],
    mode: 'bi',
    expected: { local_hit: 192, below_threshold: 48, partial_block: 15, new: 45 },
  },
  {
    name: 'below the threshold also covers the tokens of P’s own partial block',
    lengths: [200, 9, 240],
    mode: 'bi',
    expected: { local_hit: 192, below_threshold: 16, new: 32 },
  },
  {
    name: 'an answer of one token left no KV on D',
    lengths: [200, 1, 230],
    mode: 'uni',
    expected: { local_hit: 192, partial_block: 8, new: 30 },
  },
  {
    name: 'and bi has nothing to pull then',
    lengths: [200, 1, 230],
    mode: 'bi',
    expected: { local_hit: 192, partial_block: 8, new: 30 },
  },
  {
    name: 'but after an eviction D still has the prompt',
    lengths: [200, 1, 230],
    mode: 'bi',
    evicted: true,
    expected: { pulled_from_d: 192, partial_block: 8, new: 30 },
  },
  {
    name: 'nothing is whole in a sequence shorter than a block',
    lengths: [6, 4, 14],
    mode: 'bi',
    expected: { partial_block: 9, new: 5 },
  },
  {
    name: 'and uni tells its two parts apart',
    lengths: [6, 4, 14],
    mode: 'uni',
    expected: { partial_block: 6, generated_on_d: 3, new: 5 },
  },
  {
    name: 'blocks of one token are never partial',
    lengths: [100, 80, 200],
    mode: 'bi',
    blockSize: 1,
    expected: { local_hit: 100, pulled_from_d: 79, new: 21 },
  },
];

const empty = byBin(() => 0);

for (const row of table) {
  test(row.name, () => {
    const { lengths, mode, lookup = 'query', blockSize = 16, evicted = false } = row;
    const previous =
      lengths.length === 1 ? null : { numPromptTokens: lengths[0], numOutputTokens: lengths[1] };
    const numPromptTokens = lengths.at(-1)!;
    const ledger = expectedLedger(
      { blockSize, mode, lookup, kvRecomputeThreshold: 64 },
      { numPromptTokens, previous, evicted },
    );
    assert.equal(ledger, { ...empty, ...row.expected });
    assert.is(
      ledgerBins.reduce((sum, bin) => sum + ledger[bin], 0),
      numPromptTokens,
    );
  });
}

const first = createTurn({ turn: 1, num_prompt_tokens: 200, num_output_tokens: 300 });
const second = createTurn({
  turn: 2,
  num_prompt_tokens: 550,
  num_output_tokens: 10,
  num_history_tokens: 500,
  num_matching_history_tokens: 500,
});
const prompts = new Map([
  ['a', [1, 2, 3]],
  ['b', [1, 2, 4]],
]);

test('a run’s turns get the ledger that their lengths determine', () => {
  const [one, two] = withExpectedLedgers([first, second], prompts, createScope({}));
  assert.is(one!.expected_new, 200);
  assert.is(two!.expected_pulled_from_d, 304);
  assert.is(two!.expected_partial_block, 3);
});

test('nothing is expected of turns that lengths do not determine', () => {
  const expectsNothing = (turns: Parameters<typeof withExpectedLedgers>[0], scope = {}, firsts = prompts) => {
    const last = withExpectedLedgers(turns, firsts, createScope(scope)).at(-1)!;
    assert.is(last.expected_new, null);
  };
  expectsNothing([first, { ...second, warmup: true }]);
  expectsNothing([first, { ...second, error: 'refused' }]);
  expectsNothing([{ ...first, error: 'refused' }, second]);
  expectsNothing([second]);
  expectsNothing([first, { ...second, num_matching_history_tokens: 499 }]);
  expectsNothing([first, second], { enablePrefixCaching: false });
  expectsNothing([first, second], { numDecodeNodes: 2 });
  expectsNothing([first, second], { numPrefillBlocks: 36 });
  expectsNothing([first, second], { numDecodeBlocks: 37 });
  expectsNothing(
    [first, second],
    {},
    new Map([
      ['a', [1, 2, 3]],
      ['b', [1, 2, 3]],
    ]),
  );
});

const beginningWith = (...ends: readonly (readonly number[])[]) =>
  new Map(ends.map((end, i) => [String(i), [...Array.from({ length: 20 }, (_, token) => token), ...end]]));

test('conversations that share blocks and then differ are told from those that may go on alike', () => {
  const kinds = (firstPrompts: ReadonlyMap<string, readonly number[]>) =>
    [...firstPrompts.keys()].map((id) => beginningsOf(firstPrompts, 16).get(id));
  assert.equal(kinds(beginningWith([1, 2], [1, 3], [4])), ['alike', 'alike', 'alike']);
  assert.equal(kinds(beginningWith([1], [1, 3], [4])), ['contained', 'contained', 'alike']);
  assert.equal(kinds(beginningWith([1], [1], [1, 5, 6])), ['contained', 'contained', 'contained']);
  assert.equal(
    kinds(
      new Map([
        ['a', [1, 2, 3]],
        ['b', Array(20).fill(1)],
        ['c', [...Array(15).fill(1), 2, 3]],
      ]),
    ),
    ['own', 'own', 'own'],
  );
  assert.equal([...beginningsOf(new Map(), 16)], []);
});

test('behind a beginning that others have too, turns are determined by their own lengths again', () => {
  const turns = ['0', '1'].flatMap((id) => [
    createTurn({ conversation_id: id, turn: 1, num_prompt_tokens: 200, num_output_tokens: 300 }),
    createTurn({
      conversation_id: id,
      turn: 2,
      num_prompt_tokens: 550,
      num_output_tokens: 10,
      num_history_tokens: 500,
      num_matching_history_tokens: 500,
    }),
  ]);
  const determined = (firstPrompts: ReadonlyMap<string, readonly number[]>, evict: boolean) =>
    withExpectedLedgers(turns, firstPrompts, createScope({ evictPrefillBetweenTurns: evict })).map(
      ({ expected_new }) => expected_new !== null,
    );
  assert.equal(determined(beginningWith([1], [2]), false), [false, true, false, true]);
  assert.equal(determined(beginningWith([1], [2]), true), [false, false, false, false]);
  assert.equal(determined(beginningWith([1], [1, 2]), false), [false, false, false, false]);
});

test('a prefill cache that is emptied between turns needs room for one round only', () => {
  const scope = createScope({ numPrefillBlocks: 37, evictPrefillBetweenTurns: true });
  const [, two] = withExpectedLedgers([first, second], prompts, scope);
  assert.is(two!.expected_pulled_from_d, 496);
});

test.run();
