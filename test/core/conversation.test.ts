// The two-turn story between the schedulers of P and D: ledgers, pulls, identical outputs, nothing left behind.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KvTransferMode } from '../../src/config.js';
import { remoteDecodeParams } from '../../src/kv-transfer/params.js';
import { type LedgerBin, ledgerBins } from '../../src/wire.js';
import { PdPair } from './pd-pair.js';
import { bytesPerBlock, TestNode, tokens } from './test-node.js';

interface Row {
  readonly name: string;
  readonly mode: KvTransferMode;
  readonly evictsP: boolean;
  readonly ledger: Partial<Record<LedgerBin, number>>;
  readonly numComputed: number;
  /** Blocks moved in turn 2. */
  readonly numBlocksDToP: number;
  readonly numBlocksPToD: number;
}

const rows: readonly Row[] = [
  {
    name: 'uni',
    mode: 'uni',
    evictsP: false,
    ledger: { local_hit: 192, partial_block: 8, generated_on_d: 299, new: 51 },
    numComputed: 358,
    numBlocksDToP: 0,
    numBlocksPToD: 4,
  },
  {
    name: 'bi',
    mode: 'bi',
    evictsP: false,
    ledger: { local_hit: 192, pulled_from_d: 304, partial_block: 3, new: 51 },
    numComputed: 54,
    numBlocksDToP: 19,
    numBlocksPToD: 4,
  },
  {
    name: 'uni, P evicted',
    mode: 'uni',
    evictsP: true,
    ledger: { evicted: 192, partial_block: 8, generated_on_d: 299, new: 51 },
    numComputed: 550,
    numBlocksDToP: 0,
    numBlocksPToD: 4,
  },
  {
    name: 'bi, P evicted',
    mode: 'bi',
    evictsP: true,
    ledger: { pulled_from_d: 496, partial_block: 3, new: 51 },
    numComputed: 54,
    numBlocksDToP: 31,
    numBlocksPToD: 4,
  },
];

const prompt1 = tokens('user 1', 200);

function prompt2(answer: readonly number[]): number[] {
  return [...prompt1, ...answer, ...tokens('user 2', 50)];
}

/** What one node without transfer says. */
function aggregated(): number[][] {
  const node = new TestNode();
  const say = (promptTokenIds: number[], maxTokens: number) =>
    node.complete({ promptTokenIds, maxTokens }).request.tokenIds.slice(promptTokenIds.length);
  const answer = say(prompt1, 300);
  const answers = [answer, say(prompt2(answer), 30)];
  node.assertEmpty();
  return answers;
}

for (const row of rows) {
  test(`${row.name}: turn 2 has the ledger, the pulls and the answer that the design promises`, () => {
    const pair = new PdPair(row.mode);
    const first = pair.turn(prompt1, 300);
    assert.is(first.stats.ledger.new, 200);
    assert.is(first.stats.num_remote_tokens, row.mode === 'bi' ? 0 : null);
    if (row.evictsP) assert.ok(pair.p.scheduler.resetPrefixCache({ onlyFree: true }));

    const second = pair.turn(prompt2(first.outputTokenIds), 30);
    const { stats } = second;
    for (const bin of ledgerBins) assert.is(stats.ledger[bin], row.ledger[bin] ?? 0, bin);
    assert.is(stats.num_prompt_tokens, 550);
    assert.is(stats.num_computed_tokens, row.numComputed);
    assert.is(stats.num_recomputed_tokens, row.numComputed - 51);
    assert.is(stats.num_decode_computed_tokens, 1);
    assert.is(stats.num_remote_tokens, row.mode === 'bi' ? 496 : null);
    assert.is(stats.kv_bytes_d_to_p, row.numBlocksDToP * bytesPerBlock);
    assert.is(stats.kv_bytes_p_to_d, row.numBlocksPToD * bytesPerBlock);
    assert.equal([first.outputTokenIds, second.outputTokenIds], aggregated());
    pair.assertEmpty();
  });
}

test('with tickets P also pulls the partial last block of the turn before', () => {
  const pair = new PdPair('bi', { transfer: { lookup: 'ticket' } });
  const first = pair.turn(prompt1, 300);
  assert.is(pair.d.scheduler.state().numHolds, 1);
  const { stats, outputTokenIds } = pair.turn(prompt2(first.outputTokenIds), 30);
  assert.is(stats.ledger.local_hit, 192);
  assert.is(stats.ledger.pulled_from_d, 307);
  assert.is(stats.ledger.new, 51);
  assert.equal(outputTokenIds, aggregated()[1]);
  assert.is(pair.d.scheduler.state().numHolds, 1);
  pair.d.nowMs += 480_000;
  pair.assertEmpty();
});

test('a ticket that ran out is noticed, and what it named is computed', () => {
  const pair = new PdPair('bi', { transfer: { lookup: 'ticket', decoderKvBlocksTtlMs: 1000 } });
  const first = pair.turn(prompt1, 300);
  pair.d.nowMs += 1000;
  pair.p.nowMs += 1000;
  pair.d.run();
  const { stats, outputTokenIds } = pair.turn(prompt2(first.outputTokenIds), 30);
  // Full blocks are still cached on D, so they arrive; the partial one is gone with the hold.
  assert.is(stats.ledger.pulled_from_d, 304);
  assert.is(stats.ledger.transfer_failed + stats.ledger.lease_expired, 3);
  assert.equal(outputTokenIds, aggregated()[1]);
  pair.d.nowMs += 1000;
  pair.assertEmpty();
});

test('a gap below the threshold is computed, and D hears that its blocks are not needed', () => {
  const pair = new PdPair('bi');
  const first = pair.turn(prompt1, 40);
  const { stats } = pair.turn([...prompt1, ...first.outputTokenIds, ...tokens('user 2', 50)], 5);
  // D has KV for 239 tokens and offers 224 of them; P has 192.
  assert.is(stats.num_remote_tokens, 224);
  assert.is(stats.ledger.below_threshold, 32);
  assert.is(stats.ledger.partial_block, 15);
  assert.is(stats.ledger.new, 51);
  assert.is(stats.kv_bytes_d_to_p, 0);
  pair.assertEmpty();
});

test('blocks evicted on D between query and read are computed on P', () => {
  const pair = new PdPair('bi');
  const first = pair.turn(prompt1, 300);
  const prompt = prompt2(first.outputTokenIds);
  const offer = pair.query(prompt);
  pair.d.nowMs += 30_000;
  pair.d.run();
  assert.is(pair.d.scheduler.state().numHolds, 0);
  assert.ok(pair.d.scheduler.resetPrefixCache({ onlyFree: true }));
  pair.p.nowMs += 30_000;
  const handOver = pair.prefill(prompt, offer);
  pair.d.run();
  const { stats, outputTokenIds } = pair.decode(prompt, handOver, 30);
  assert.is(stats.ledger.local_hit, 192);
  assert.is(stats.ledger.pulled_from_d, 0);
  assert.is(stats.ledger.transfer_failed + stats.ledger.lease_expired, 304);
  assert.is(stats.ledger.partial_block, 3);
  assert.is(stats.num_computed_tokens, 358);
  assert.equal(outputTokenIds, aggregated()[1]);
  pair.assertEmpty();
});

test('D that lost the end of its answer offers the rest, and the loss is booked as evicted', () => {
  const pair = new PdPair('bi');
  const first = pair.turn(prompt1, 300);
  const prompt = prompt2(first.outputTokenIds);
  // Another conversation takes all but 20 of D's blocks, from the end of this one's chain.
  const { request } = pair.d.complete({ promptTokenIds: tokens('other', 80 * 16 - 1), maxTokens: 1 });
  assert.is(request.status, 'FINISHED_LENGTH_CAPPED');
  const { stats } = pair.turn(prompt, 30);
  assert.is(stats.num_remote_tokens, 320);
  assert.is(stats.ledger.pulled_from_d, 128);
  assert.is(stats.ledger.evicted, 176);
  assert.is(stats.ledger.partial_block, 3);
  assert.is(stats.ledger.new, 51);
  pair.assertEmpty();
});

test('an answer that comes back changed is computed again as template_mismatch', () => {
  for (const mode of ['uni', 'bi'] as const) {
    const pair = new PdPair(mode);
    const first = pair.turn(prompt1, 300);
    const changed = [...first.outputTokenIds];
    changed[100] = (changed[100]! + 1) % 1000;
    const { stats } = pair.turn(prompt2(changed), 5);
    assert.is(stats.ledger.template_mismatch, 199);
    assert.is(stats.ledger.new, 51);
    assert.is(stats.ledger.generated_on_d, mode === 'uni' ? 100 : 0);
    assert.is(stats.ledger.pulled_from_d, mode === 'uni' ? 0 : 96);
    assert.is(stats.ledger.partial_block, mode === 'uni' ? 8 : 12);
    pair.assertEmpty();
  }
});

test('a prompt that changes what P had itself is split by D alone', () => {
  const pair = new PdPair('uni');
  const first = pair.turn(prompt1, 300);
  const changed = prompt2(first.outputTokenIds);
  changed[100] = (changed[100]! + 1) % 1000;
  const handOver = pair.prefill(changed, remoteDecodeParams());
  assert.is(handOver.remote_prefill_stats!.ledger.new, 450);
  const { ledger } = pair.decode(changed, handOver, 5).stats;
  assert.is(ledger.local_hit, 96);
  assert.is(ledger.partial_block, 4);
  assert.is(ledger.template_mismatch, 399);
  assert.is(ledger.new, 51);
  pair.assertEmpty();
});

test('three turns keep the closed form', () => {
  for (const mode of ['uni', 'bi'] as const) {
    const pair = new PdPair(mode);
    const first = pair.turn(prompt1, 300);
    const prompt = prompt2(first.outputTokenIds);
    const second = pair.turn(prompt, 300);
    const { stats } = pair.turn([...prompt, ...second.outputTokenIds, ...tokens('user 3', 50)], 5);
    assert.is(stats.ledger.local_hit, 544);
    assert.is(stats.ledger.new, 51);
    if (mode === 'uni') {
      assert.is(stats.ledger.partial_block, 6);
      assert.is(stats.ledger.generated_on_d, 299);
    } else {
      assert.is(stats.ledger.pulled_from_d, 304);
      assert.is(stats.ledger.partial_block, 1);
    }
    pair.assertEmpty();
  }
});

test('without prefix caching P still hands its blocks over, and they are checked', () => {
  const pair = new PdPair('uni', { p: { cache: { enablePrefixCaching: false } } });
  const first = pair.turn(prompt1, 300);
  const second = pair.turn(prompt2(first.outputTokenIds), 30);
  assert.is(second.stats.ledger.local_hit, 0);
  assert.is(second.stats.ledger.evicted, 192);
  assert.is(second.stats.kv_bytes_p_to_d, 4 * bytesPerBlock);
  assert.equal(second.outputTokenIds, aggregated()[1]);
  pair.assertEmpty();
});

test.run();
