// The regret of pulling or computing: by fits over the run, against the better of both.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { exportedTurns } from '../../src/bench/export-turns.js';
import { regretOf } from '../../src/bench/regret.js';
import { createTurn } from './helpers.js';

/** Computing costs 1 ms a token here, pulling 10 ms and 0.1 ms a token. */
const pulled = (numTokens: number, numNew: number) =>
  createTurn({
    num_pullable_tokens: numTokens,
    num_pulled_tokens: numTokens,
    num_computed_tokens: numNew,
    kv_transfer_ms_d_to_p: 10 + 0.1 * numTokens,
    ttft_ms: numNew + 10 + 0.1 * numTokens,
  });
const computed = (numTokens: number, numNew: number) =>
  createTurn({
    num_pullable_tokens: numTokens,
    num_computed_tokens: numNew + numTokens,
    ttft_ms: numNew + numTokens,
  });

test('right choices cost nothing, wrong ones what the other would have saved', () => {
  const turns = [pulled(100, 10), pulled(200, 30), computed(5, 10), computed(300, 20), pulled(4, 10)];
  const regrets = regretOf(turns);
  const rounded = turns.map((turn) => Math.round(regrets.get(turn)! * 10) / 10);
  assert.equal(rounded, [0, 0, 0, 260, 6.4]);
});

test('a turn without a choice, and a run that only ever computed, have none', () => {
  const alone = [createTurn({ num_computed_tokens: 5, ttft_ms: 5 }), computed(5, 10)];
  assert.is(regretOf(alone).size, 0);
});

test('exported turns carry their regret, found within their own mode and without warm-up', () => {
  const turns = [pulled(100, 10), pulled(200, 30), computed(300, 20), computed(5, 10)];
  const uni = turns.map((turn) => ({ ...turn, mode: 'uni' as const, ttft_ms: 3 * turn.ttft_ms! }));
  const warmup = { ...pulled(1000, 1), warmup: true, kv_transfer_ms_d_to_p: 1e6 };
  const exported = exportedTurns([...turns, warmup, ...uni]);
  const regrets = exported.map(({ pull_regret_ms: ms }) => ms && Math.round(ms * 10) / 10);
  assert.equal(regrets.slice(0, 5), [0, 0, 260, 0, null]);
  assert.is.not(regrets[7], regrets[2]);
  const alone = exportedTurns([createTurn({ num_computed_tokens: 5, ttft_ms: 5 })]);
  assert.is(alone[0]!.pull_regret_ms, null);
});

test.run();
