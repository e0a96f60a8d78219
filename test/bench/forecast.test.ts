// A forecast against the closed form, against a cache of single blocks, and against figures counted by hand.
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { inRounds } from '../../src/bench/arrivals.js';
import { expectedLedger, ledgerOfCached } from '../../src/bench/closed-form.js';
import { forecastLoad } from '../../src/bench/forecast/load-forecast.js';
import { NodeCache } from '../../src/bench/forecast/node-cache.js';
import { retentionOf } from '../../src/bench/forecast/retention.js';
import { type CacheSettings, simulate } from '../../src/bench/forecast/simulate.js';
import { type LengthConversation, lengthsOfPlayed } from '../../src/bench/forecast/turn-lengths.js';
import { ledgerBins } from '../../src/wire.js';

const test = suite('forecast');

const settings = (over: Partial<CacheSettings> = {}): CacheSettings => ({
  blockSize: 16,
  numPrefillBlocks: Number.POSITIVE_INFINITY,
  numDecodeBlocks: Number.POSITIVE_INFINITY,
  kvRecomputeThreshold: 64,
  lookup: 'query',
  prefillAnswersFirstToken: true,
  evictPrefillBetweenTurns: false,
  ...over,
});

/** From [added, answer] of each turn. */
const talk = (
  ...turns: readonly (readonly [added: number, answer: number, at?: number])[]
): LengthConversation => {
  let history = 0;
  return {
    turns: turns.map(([added, numOutputTokens, arrivalMs = null]) => {
      const numPromptTokens = history + added;
      history = numPromptTokens + numOutputTokens;
      return { numPromptTokens, numOutputTokens, arrivalMs };
    }),
  };
};

const conversationArb = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 2, max: 200 })), {
    minLength: 1,
    maxLength: 5,
  })
  .map((turns) => talk(...turns));

test('one turn: the figures of ARCHITECTURE.md', () => {
  const conversation = [talk([200, 300], [50, 10])];
  const order = inRounds(conversation);
  const of = (mode: 'uni' | 'bi', over: Partial<CacheSettings>) => {
    const { ledger, num_computed_tokens } = simulate(mode, conversation, order, settings(over));
    return [ledger.local_hit, ledger.pulled_from_d, num_computed_tokens - 200];
  };
  assert.equal(of('uni', {}), [192, 0, 358]);
  assert.equal(of('bi', {}), [192, 304, 54]);
  const lost = { evictPrefillBetweenTurns: true };
  assert.equal(of('uni', lost), [0, 0, 550]);
  assert.equal(of('bi', lost), [0, 496, 54]);
});

test('where nothing is evicted, a forecast is the closed form summed up', () => {
  fc.assert(
    fc.property(
      fc.array(conversationArb, { minLength: 1, maxLength: 5 }),
      fc.constantFrom('uni' as const, 'bi' as const),
      fc.constantFrom('query' as const, 'ticket' as const),
      fc.boolean(),
      (conversations, mode, lookup, evicted) => {
        const config = settings({ lookup, evictPrefillBetweenTurns: evicted });
        const order = inRounds(conversations);
        const { ledger, num_prompt_tokens } = simulate(mode, conversations, order, config);
        const closed = order.map(({ conversation, turn }) => {
          const { turns } = conversations[conversation]!;
          const previous = turns[turn - 2] ?? null;
          const { numPromptTokens } = turns[turn - 1]!;
          return expectedLedger({ ...config, mode }, { numPromptTokens, previous, evicted });
        });
        for (const bin of ledgerBins) {
          assert.is(
            ledger[bin],
            closed.reduce((sum, one) => sum + one[bin], 0),
            bin,
          );
        }
        assert.is(
          num_prompt_tokens,
          order.reduce(
            (sum, { conversation, turn }) =>
              sum + conversations[conversation]!.turns[turn - 1]!.numPromptTokens,
            0,
          ),
        );
      },
    ),
  );
});

test('whatever the caches have lost, the bins sum to the prompt and none is negative', () => {
  const tokens = fc.integer({ min: 1, max: 500 });
  fc.assert(
    fc.property(
      ...([
        tokens,
        tokens,
        tokens,
        fc.nat(),
        fc.nat(),
        fc.constantFrom('uni', 'bi'),
        fc.constantFrom('query', 'ticket'),
      ] as const),
      (prompt, output, added, onP, onD, mode, lookup) => {
        const previous = { numPromptTokens: prompt, numOutputTokens: output };
        const cut = (value: number, blocks: number) => (blocks === 0 ? 0 : value % (blocks + 1)) * 16;
        const ledger = ledgerOfCached(
          { ...settings(), mode: mode as 'uni' | 'bi', lookup: lookup as 'query' | 'ticket' },
          { numPromptTokens: prompt + output + added, previous },
          {
            numCachedOnP: cut(onP, Math.floor(prompt / 16)),
            numCachedOnD: cut(onD, Math.floor((prompt + output - 1) / 16)),
          },
        );
        assert.ok(ledgerBins.every((bin) => ledger[bin] >= 0));
        assert.is(
          ledgerBins.reduce((sum, bin) => sum + ledger[bin], 0),
          prompt + output + added,
        );
      },
    ),
  );
});

/** The same policy, block by block: [conversation, index], least recently used first, ends before beginnings. */
class BlockwiseCache {
  #blocks: (readonly [number, number])[] = [];
  readonly #capacity: number;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  get(conversation: number): number {
    return this.#blocks.filter(([owner]) => owner === conversation).length;
  }

  run(conversation: number, numNeeded: number, numFull: number): void {
    const others = this.#blocks.filter(([owner]) => owner !== conversation);
    const room = Math.max(0, this.#capacity - numNeeded);
    const kept = others.slice(Math.max(0, others.length - room));
    const own = Array.from(
      { length: Math.min(numFull, this.#capacity) },
      (_, i) => [conversation, i] as const,
    );
    this.#blocks = [...kept, ...own.reverse()];
  }
}

test('a cache of lengths keeps of each conversation what a cache of blocks keeps', () => {
  const step = fc.record({
    conversation: fc.nat(4),
    blocks: fc.integer({ min: 1, max: 12 }),
    partial: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 30 }), fc.array(step, { maxLength: 40 }), (capacity, steps) => {
      const lengths = new NodeCache(capacity);
      const blocks = new BlockwiseCache(capacity);
      for (const { conversation, blocks: numFull, partial } of steps) {
        for (const cache of [lengths, blocks]) cache.run(conversation, numFull + (partial ? 1 : 0), numFull);
        for (let id = 0; id <= 4; id++) assert.is(lengths.get(id), blocks.get(id), `conversation ${id}`);
      }
    }),
  );
});

test('smaller caches never find more, and a decode cache with room for all finds all', () => {
  const conversations = Array.from({ length: 6 }, (_, i) => talk([100 + i, 60], [30, 60], [20, 60]));
  const { decode_sizes: sizes, scenarios } = forecastLoad(conversations, inRounds(conversations), {
    ...settings(),
    ticketTtlMs: 1000,
  });
  assert.is(sizes[0]!.found_ratio, 1);
  assert.is(sizes.at(-1)!.found_ratio, 0);
  for (const [i, size] of sizes.slice(1).entries()) assert.ok(size.found_ratio! <= sizes[i]!.found_ratio!);
  assert.ok(
    scenarios.prefill_lost.bi.num_recomputed_tokens < scenarios.prefill_lost.uni.num_recomputed_tokens,
  );
});

test('KV is kept from one turn to the next of those who come back', () => {
  const retention = retentionOf(
    [talk([100, 20, 0], [30, 10, 1000]), talk([50, 50, 500], [10, 10, 2000]), talk([900, 9, 700])],
    1200,
  )!;
  assert.is(retention.peak_retained_tokens, 220);
  // 120 for 500 ms, 220 for 500 ms, 100 for 1000 ms
  assert.is(retention.mean_retained_tokens, 135);
  assert.is(retention.within_ticket_ttl, 0.5);
  assert.is(retention.turn_gap_ms.p50, 1250);
  assert.is(retentionOf([talk([5, 5], [5, 5])], 1), null);
  assert.is(retentionOf([talk([5, 5, 1])], 1), null);
});

test('prompts grow by what is said, what is answered and what the template adds', () => {
  const meter = {
    count: (text: string) => text.split(' ').length,
    templateTokens: (roles: readonly string[]) => 2 * roles.length + 1,
  };
  const ask = (content: string) => [{ role: 'user', content }];
  const turns = [
    { messages: [{ role: 'system', content: 'be brief' }, ...ask('one two three')], numOutputTokens: 10 },
    { messages: ask('four'), numOutputTokens: 5 },
  ];
  assert.equal(
    lengthsOfPlayed({ id: 'a', turns }, meter).turns.map(({ numPromptTokens }) => numPromptTokens),
    [5 + 5, 5 + 10 + 1 + 9],
  );
});

test.run();
