// When the turns of an open loop are due: rates, bursts, a trace's own times, and what keeps the order of a conversation.
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { planArrivals } from '../../src/bench/arrivals.js';
import type { Conversation } from '../../src/bench/conversation.js';
import { Random } from '../../src/bench/random.js';

const test = suite('arrivals');

const talk = (id: string, times: readonly (number | null)[]): Conversation => ({
  id,
  turns: times.map((arrivalMs) => ({ messages: [], numOutputTokens: 1, arrivalMs })),
});

const many = Array.from({ length: 500 }, (_, i) => talk(String(i), [null, null]));

const gapsOf = (times: readonly number[]) => times.map((time, i) => time - (times[i - 1] ?? 0));

/** Standard deviation of the gaps over their mean: 1 for a Poisson process. */
function variationOf(burstiness: number): number {
  const planned = planArrivals({ request_rate: 10, burstiness }, many, { seed: 3, limit: null });
  const gaps = gapsOf(planned.map(({ plannedMs }) => plannedMs));
  const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length;
  return Math.sqrt(gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / gaps.length) / mean;
}

test('all turns together take as long as the rate says, first turns first', () => {
  const planned = planArrivals({ request_rate: 10, burstiness: 1 }, many, { seed: 3, limit: null });
  assert.is(planned.length, 1000);
  assert.ok(Math.abs(planned.at(-1)!.plannedMs - 100_000) < 1e-6);
  assert.ok(planned.slice(0, 500).every(({ turn }) => turn === 1));
  assert.ok(gapsOf(planned.map(({ plannedMs }) => plannedMs)).every((gap) => gap >= 0));
});

test('the seed fixes the times', () => {
  const plan = (seed: number) =>
    planArrivals({ request_rate: 10, burstiness: 0.5 }, many, { seed, limit: 9 });
  assert.equal(plan(1), plan(1));
  assert.not.equal(plan(1), plan(2));
  assert.is(plan(1).length, 9);
});

test('burstiness is the shape of the gaps: a gamma distribution varies by 1 / √shape', () => {
  for (const burstiness of [0.25, 1, 16]) {
    const expected = 1 / Math.sqrt(burstiness);
    assert.ok(Math.abs(variationOf(burstiness) / expected - 1) < 0.15, `${burstiness}`);
  }
});

test('gamma variates have the mean and the variance of their shape', () => {
  for (const shape of [0.3, 1, 7.5]) {
    const random = new Random(1, `gamma/${shape}`);
    const sample = Array.from({ length: 20_000 }, () => random.gamma(shape));
    const mean = sample.reduce((sum, value) => sum + value, 0) / sample.length;
    const variance = sample.reduce((sum, value) => sum + (value - mean) ** 2, 0) / sample.length;
    assert.ok(Math.abs(mean / shape - 1) < 0.05, `mean ${mean} of shape ${shape}`);
    assert.ok(Math.abs(variance / shape - 1) < 0.1, `variance ${variance} of shape ${shape}`);
  }
});

test('a trace’s own times are kept to scale, from its first turn on, and a conversation keeps its order', () => {
  const conversations = [talk('a', [5000, 9000]), talk('b', [4000]), talk('c', [8000, 7000])];
  const planned = planArrivals({ time_scale: 0.5 }, conversations, { seed: 0, limit: null });
  assert.equal(
    planned.map(({ conversation, turn, plannedMs }) => [conversation, turn, plannedMs]),
    [
      [1, 1, 0],
      [0, 1, 500],
      [2, 1, 2000],
      [2, 2, 2000],
      [0, 2, 2500],
    ],
  );
});

test('conversations without times cannot be played by them', () => {
  assert.throws(
    () => planArrivals({ time_scale: 1 }, [talk('a', [0, null])], { seed: 0, limit: null }),
    /Expected a dataset with timestamps for --time-scale, but conversation a has none/,
  );
});

test.run();
