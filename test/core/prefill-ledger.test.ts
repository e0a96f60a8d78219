// The ledger of one prompt, bin by bin: on P, and completed on D.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { completeLedger, type PrefillFacts, prefillLedger, sumBins } from '../../src/core/prefill-ledger.js';
import type { KnownTokens } from '../../src/core/token-history.js';
import { type Ledger, type LedgerBin, ledgerBins } from '../../src/wire.js';

const unknown: KnownTokens = { numFullBlockTokens: 0, numTokens: 0, previous: null };

/** A prompt of 550 tokens of which nothing is known. */
const facts: PrefillFacts = {
  numPromptTokens: 550,
  numLocalTokens: 0,
  numExternalTokens: 0,
  numArrivedTokens: 0,
  failure: null,
  numRemoteTokens: null,
  endsInCachedBlock: false,
  blockSize: 16,
  known: unknown,
};
const onP = { ...facts, numLocalTokens: 192, known: { ...unknown, numFullBlockTokens: 192, numTokens: 200 } };
const onD: KnownTokens = {
  numFullBlockTokens: 496,
  numTokens: 499,
  previous: { numTokens: 499, numCommonTokens: 499 },
};

function isLedger(ledger: Ledger, expected: Partial<Record<LedgerBin, number>>): void {
  for (const bin of ledgerBins) assert.is(ledger[bin], expected[bin] ?? 0, bin);
}

interface Case {
  readonly name: string;
  readonly facts: PrefillFacts;
  readonly expected: Partial<Record<LedgerBin, number>>;
}

const cases: readonly Case[] = [
  { name: 'nothing is known', facts, expected: { new: 550 } },
  {
    name: 'P has the turn before',
    facts: onP,
    expected: { local_hit: 192, partial_block: 8, new: 350 },
  },
  {
    name: 'P was emptied',
    facts: { ...onP, numLocalTokens: 0 },
    expected: { evicted: 192, partial_block: 8, new: 350 },
  },
  {
    name: 'the gap was pulled',
    facts: { ...onP, numExternalTokens: 304, numArrivedTokens: 304, numRemoteTokens: 496 },
    expected: { local_hit: 192, pulled_from_d: 304, new: 54 },
  },
  {
    name: 'half of the gap was pulled before the lease ran out',
    facts: {
      ...onP,
      numExternalTokens: 304,
      numArrivedTokens: 160,
      numRemoteTokens: 496,
      failure: 'lease_expired',
    },
    expected: { local_hit: 192, pulled_from_d: 160, lease_expired: 144, new: 54 },
  },
  {
    name: 'nothing arrived, though P once knew some of it',
    facts: {
      ...onP,
      numLocalTokens: 0,
      numExternalTokens: 496,
      numRemoteTokens: 496,
      failure: 'transfer_failed',
    },
    expected: { transfer_failed: 496, new: 54 },
  },
  {
    name: 'the gap was too small',
    facts: { ...onP, numRemoteTokens: 240 },
    expected: { local_hit: 192, below_threshold: 48, new: 310 },
  },
  {
    name: 'D offered less than P has',
    facts: { ...onP, numRemoteTokens: 96 },
    expected: { local_hit: 192, partial_block: 8, new: 350 },
  },
  {
    name: 'the last block is cached but must run for its last token',
    facts: {
      ...facts,
      numPromptTokens: 544,
      numLocalTokens: 528,
      endsInCachedBlock: true,
      known: { ...unknown, numFullBlockTokens: 544, numTokens: 544 },
    },
    expected: { local_hit: 528, last_token: 16 },
  },
  {
    name: 'the last block is cached but the one before is not',
    facts: {
      ...facts,
      numPromptTokens: 544,
      numLocalTokens: 512,
      endsInCachedBlock: true,
      known: { ...unknown, numFullBlockTokens: 544, numTokens: 544 },
    },
    expected: { local_hit: 512, evicted: 32 },
  },
];

for (const { name, facts: given, expected } of cases) {
  test(`P's ledger when ${name}`, () => {
    const ledger = prefillLedger(given);
    isLedger(ledger, expected);
    assert.is(sumBins(ledger), given.numPromptTokens);
  });
}

test('D was not asked: what it generated is generated_on_d', () => {
  isLedger(completeLedger(prefillLedger(onP), null, onD), {
    local_hit: 192,
    partial_block: 8,
    generated_on_d: 299,
    new: 51,
  });
});

test('D was asked: what it had in full blocks and did not offer is evicted, the tail is partial_block', () => {
  const ledger = prefillLedger({
    ...onP,
    numExternalTokens: 128,
    numArrivedTokens: 128,
    numRemoteTokens: 320,
  });
  isLedger(completeLedger(ledger, 320, onD), {
    local_hit: 192,
    pulled_from_d: 128,
    evicted: 176,
    partial_block: 3,
    new: 51,
  });
});

test('where the prompt leaves the previous sequence, the rest of that is template_mismatch', () => {
  const left = {
    numFullBlockTokens: 288,
    numTokens: 300,
    previous: { numTokens: 499, numCommonTokens: 300 },
  };
  isLedger(completeLedger(prefillLedger(onP), null, left), {
    local_hit: 192,
    partial_block: 8,
    generated_on_d: 100,
    template_mismatch: 199,
    new: 51,
  });
});

test('a prompt that repeats a part of the previous sequence is no mismatch', () => {
  const repeated = {
    numFullBlockTokens: 544,
    numTokens: 550,
    previous: { numTokens: 900, numCommonTokens: 550 },
  };
  isLedger(completeLedger(prefillLedger(facts), null, repeated), { generated_on_d: 550 });
});

test.run();
