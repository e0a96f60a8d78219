// Distributions of lengths: reproducible from a seed, with the means that their parameters promise.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Distribution, sample, sampleNumTurns } from '../../src/bench/distribution.js';
import { Random } from '../../src/bench/random.js';

function draw(distribution: Distribution, count: number, seed = 1): number[] {
  const random = new Random(seed, 'test');
  return Array.from({ length: count }, () => sample(distribution, random));
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

const table: readonly (readonly [Distribution, number, number])[] = [
  [{ distribution: 'constant', value: 17 }, 17, 0],
  [{ distribution: 'uniform', min: 10, max: 30 }, 20, 0.2],
  [{ distribution: 'lognormal', average: 200 }, 200, 3],
  [{ distribution: 'lognormal', average: 200, median_ratio: 0.5 }, 200, 8],
  // exp(4 + 0.25 / 2)
  [{ distribution: 'lognormal', mean: 4, sigma: 0.5 }, 61.87, 0.7],
  [{ distribution: 'poisson', alpha: 4 }, 4, 0.05],
  [{ distribution: 'poisson', alpha: 100 }, 100, 0.3],
  // zeta(3) / zeta(4)
  [{ distribution: 'zipf', alpha: 4 }, 1.1106, 0.02],
];

for (const [distribution, wanted, tolerance] of table) {
  test(`${JSON.stringify(distribution)} has the mean ${wanted}`, () => {
    const found = mean(draw(distribution, 50_000));
    assert.ok(Math.abs(found - wanted) <= tolerance, `mean ${found}`);
  });
}

test('the same seed draws the same values and another seed other ones', () => {
  const distribution: Distribution = { distribution: 'uniform', min: 0, max: 1_000_000 };
  assert.equal(draw(distribution, 20, 7), draw(distribution, 20, 7));
  assert.not.equal(draw(distribution, 20, 7), draw(distribution, 20, 8));
});

test('the generator itself never changes: recorded workloads depend on it', () => {
  const random = new Random(42, 'pinned');
  assert.equal(
    Array.from({ length: 4 }, () => random.integer(0, 9999)),
    [9874, 509, 3018, 2882],
  );
});

test('streams of different labels differ', () => {
  assert.is.not(new Random(1, 'a').next(), new Random(1, 'b').next());
});

test('uniform reaches both ends and nothing beyond', () => {
  const values = new Set(draw({ distribution: 'uniform', min: 3, max: 5 }, 1000));
  assert.equal([...values].sort(), [3, 4, 5]);
});

test('max cuts long tails', () => {
  assert.is(
    Math.max(...draw({ distribution: 'lognormal', average: 500, median_ratio: 0.3, max: 800 }, 2000)),
    800,
  );
  assert.is(Math.max(...draw({ distribution: 'zipf', alpha: 1.1, max: 50 }, 2000)), 50);
  assert.is(Math.max(...draw({ distribution: 'poisson', alpha: 30, max: 31 }, 2000)), 31);
});

test('the number of turns counts both roles: even, rounded up, at least two', () => {
  const random = new Random(1, 'turns');
  const turns = (value: number) => sampleNumTurns({ distribution: 'constant', value }, random);
  assert.equal([0, 1, 2, 3, 4, 7].map(turns), [2, 2, 2, 4, 4, 8]);
});

test.run();
