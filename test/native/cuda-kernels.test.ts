// Every CUDA kernel on the emulated driver: against references in float64, under several orders of threads, and on a
// device where there is one.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const build = fileURLToPath(new URL('../../../build', import.meta.url));
const program = path.join(build, 'cuda_check');
const emulatedDriver = path.join(build, 'libcuda_emulated.so');

interface Comparison {
  readonly check: string;
  readonly ok: boolean;
  readonly detail: string;
  /** Hash of the results. */
  readonly bits: string;
}

function check(args: readonly string[], env: NodeJS.ProcessEnv) {
  const { status, stdout, stderr } = spawnSync(program, args, {
    env: { ...process.env, ...env },
    encoding: 'utf8',
    timeout: 50_000,
  });
  const lines = stdout.trim().split('\n').filter(Boolean);
  return { status, stderr, comparisons: lines.map((line) => JSON.parse(line) as Comparison) };
}

function emulated(args: readonly string[], schedule = 0) {
  return check(args, { VLLM_PD_LIBCUDA: emulatedDriver, VLLM_PD_EMULATED_SCHEDULE: String(schedule) });
}

if (!existsSync(program)) {
  console.log('skipped: build/cuda_check is not built (node native/build.mjs --checks)');
} else {
  const kernels = spawnSync(program, ['--list'], { encoding: 'utf8' }).stdout.trim().split('\n');

  test('all kernels have a check', () => {
    assert.ok(kernels.length >= 10, kernels.join(' '));
  });

  for (const kernel of kernels) {
    test(`${kernel}: every result is the reference's, whatever the order of threads`, () => {
      const { status, stderr, comparisons } = emulated([kernel]);
      const wrong = comparisons.filter(({ ok }) => !ok).map((line) => `${line.check}: ${line.detail}`);
      assert.equal(wrong, [], stderr);
      assert.is(status, 0, stderr);
      assert.ok(comparisons.length > 0);
      // Threads between two barriers in descending, then in shuffled order: a barrier that is missing shows.
      for (const schedule of [1, 7]) {
        assert.equal(emulated([kernel], schedule).comparisons, comparisons, `schedule ${schedule}`);
      }
    });
  }

  test('other seeds give other numbers, and they are right too', () => {
    const args = ['rms_norm', 'rotate_and_cache', 'paged_attention', 'sample'];
    const first = emulated(args).comparisons;
    const second = emulated([...args, '--seed', '20261122']);
    assert.is(second.status, 0, JSON.stringify(second.comparisons.filter(({ ok }) => !ok)));
    assert.ok(second.comparisons.some(({ bits }, i) => bits !== first[i]?.bits));
  });

  test('one wrong value is noticed in every comparison, and shown', () => {
    const { status, comparisons } = emulated(['--alter']);
    assert.is(status, 1);
    assert.equal(
      comparisons.filter(({ ok }) => ok).map((line) => line.check),
      [],
    );
    const shown = comparisons.find((line) => line.check.startsWith('swiglu'))?.detail ?? '';
    assert.match(shown, /^1 of \d+ differ: \[\d+\] \S+ instead of \S+;$/);
  });

  test('the same checks on a device', () => {
    const { status, stderr, comparisons } = check([], { VLLM_PD_LIBCUDA: '' });
    if (status === 77) return console.log(stderr.trim());
    assert.equal(
      comparisons.filter(({ ok }) => !ok).map((line) => `${line.check}: ${line.detail}`),
      [],
      stderr,
    );
    assert.is(status, 0, stderr);
  });
}

test.run();
