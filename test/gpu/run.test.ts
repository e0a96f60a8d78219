// The script for GPU owners, from a packed copy in another folder with nothing of this checkout or of npm around it: it starts,
// it serves on the CPU, and on the emulated driver it runs to its table.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const source = path.join(root, 'test', 'gpu');

interface Figure {
  readonly figure: string;
  readonly value: number | null;
  readonly limit: number | null;
  readonly ratio: number | null;
  readonly asked: number;
}

interface Step {
  readonly name: string;
  readonly state: 'passed' | 'failed' | 'skipped';
  readonly reason: string | null;
  readonly stdout: string;
}

interface KeptRun {
  readonly command: string;
  readonly host: { readonly commit: string; readonly gpus: readonly { readonly name: string }[] };
  readonly figures: readonly Figure[];
  readonly steps: readonly Step[];
}

interface FigureTable {
  figureTable(steps: readonly Step[]): readonly Figure[];
}

const scratch = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-packed-'));
const packed = path.join(scratch, 'packed');

/** In the packed copy, from elsewhere, with an environment that knows nothing. */
function run(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  return spawnSync(path.join(packed, 'bin', 'node'), args, {
    cwd: scratch,
    env: { PATH: '/usr/bin:/bin', HOME: scratch, ...env },
    encoding: 'utf8',
    timeout: 100_000,
  });
}

const bin = path.join(packed, 'dist', 'src', 'bin.js');
const script = path.join(packed, 'test', 'gpu', 'run.mjs');

test('what a step came to is found again in the table, and what did not run is not made up', async () => {
  const { figureTable } = (await import(path.join(source, 'figure-table.mjs'))) as FigureTable;
  const passed = (name: string, ...lines: object[]): Step => ({
    name,
    state: 'passed',
    reason: null,
    stdout: lines.map((line) => JSON.stringify(line)).join('\n'),
  });
  const kernel = (figure: string, rate: number, limit: number) => ({
    figure,
    rate,
    limit,
    ratio: rate / limit,
    unit: '',
  });
  const reuse = {
    ttft_uni_p50: 100,
    ttft_bi_p50: 14,
    ttft_full_hit_p50: 10,
    reuse_efficiency: 86 / 90,
  };
  const table = figureTable([
    passed(
      'kernel rates',
      kernel('block copy, fragmented ids', 9, 10),
      kernel('attention decode, batch 32 x 8k', 8, 10),
      kernel('own product, 8k rows', 50, 100),
      kernel('attention prefill, 8k causal', 40, 100),
    ),
    passed('PyTorch attention', { figure: 'scaled_dot_product_attention', rate: 50 }),
    passed(
      'steps of the model',
      { figure: 'decode step, batch 1', batchInvariant: true, bytesPerSecond: 7 },
      { figure: 'decode step, batch 1', batchInvariant: false, bytesPerSecond: 9 },
      { figure: 'prefill, 8192 tokens', batchInvariant: true, flopsPerSecond: 70 },
    ),
    passed('cache-eviction at 2048 tokens', { comparison: { reuse: { ...reuse, reuse_efficiency: 0.1 } } }),
    passed('cache-eviction at 8192 tokens', { comparison: { reuse } }),
  ]);
  assert.equal(
    table.map(({ ratio }) => ratio && Number(ratio.toFixed(3))),
    [0.9, 0.8, 0.8, 0.7, null, 0.7, 0.956],
  );
  assert.equal(
    table.map(({ asked }) => asked),
    [0.9, 0.85, 0.8, 0.75, 0.75, 0.6, 0.95],
  );
  assert.ok(
    figureTable([]).every(({ value, limit, ratio }) => value === null && limit === null && ratio === null),
  );
});

if (!existsSync(path.join(root, 'build', 'cuda_check')) || !existsSync(path.join(root, 'dist', 'commands'))) {
  console.log('skipped: build/cuda_check is not built (node native/build.mjs --checks)');
} else {
  test('a packed copy starts without npm and without this checkout, and serves on the CPU', () => {
    const { status, stderr } = spawnSync(process.execPath, [path.join(source, 'pack.mjs'), packed], {
      encoding: 'utf8',
    });
    assert.is(status, 0, stderr);
    const info = run([bin, 'info', '--json']);
    assert.is(info.status, 0, info.stderr);
    assert.is(JSON.parse(info.stdout).backends.cpu.works, true);
    const bench = run([
      ...[bin, 'bench', 'multi-turn', '--workload', 'smoke', '--model', 'tiny', '--backend', 'cpu'],
      ...['--no-keep', '--json'],
    ]);
    assert.is(bench.status, 0, bench.stderr.slice(-2000));
    const { comparison } = JSON.parse(bench.stdout);
    assert.is(comparison.num_identical_outputs, comparison.num_turns);
  });

  test('there is nothing to do without a device, and it says so', () => {
    const { status, stdout } = run([script], { VLLM_PD_LIBCUDA: '/nowhere/libcuda.so.1' });
    assert.is(status, 0);
    assert.match(stdout, /^skipped: There is no CUDA driver/);
  });

  test('on the emulated driver it runs from its first step to a table that is kept, and says what it left out', () => {
    const results = path.join(scratch, 'results');
    const { status, stdout, stderr } = run(
      [script, '--small', '--results', results, '--steps', 'checks,sanitizer,kernels,torch,model,oracle'],
      { VLLM_PD_LIBCUDA: path.join(packed, 'build', 'libcuda_emulated.so') },
    );
    assert.is(status, 0, `${stdout.slice(-3000)}${stderr}`);
    const [folder] = readdirSync(results);
    assert.match(folder ?? '', /-gpu$/);
    const kept = JSON.parse(readFileSync(path.join(results, folder!, 'gpu.json'), 'utf8')) as KeptRun;
    assert.is(kept.host.gpus[0]?.name, 'Emulated GPU');
    assert.match(kept.host.commit, /^[0-9a-f]{40}|^unknown/);
    assert.match(kept.command, /--small/);
    const measured = kept.figures.filter(({ ratio }) => ratio !== null).map(({ figure }) => figure);
    assert.equal(
      measured.map((figure) => figure.replace(/,.*/, '')),
      ['block copy', 'attention decode', 'decode step', 'decode step', 'prefill of 8k tokens'],
    );
    for (const { name, state, reason } of kept.steps) {
      const mayLack = /sanitizer|PyTorch|transformers/.test(name);
      assert.ok(
        state === 'passed' || (mayLack && state === 'skipped' && reason),
        `${name}: ${state}, ${reason}`,
      );
    }
    const table = readFileSync(path.join(results, folder!, 'table.md'), 'utf8');
    assert.match(table, /these rates say nothing/);
    assert.match(table, /\| reuse efficiency, P evicted, 8k tokens \| – .*\| 0\.95 \| not measured \|/);
    assert.match(stdout, /compute-sanitizer memcheck/);
  });

  test('a step that nobody knows is refused by name', () => {
    const { status, stderr } = run([script, '--steps', 'checks,figures']);
    assert.is(status, 2);
    assert.match(stderr, /Expected steps of checks, .* but received figures/);
  });
}

test.after(() => rmSync(scratch, { recursive: true, force: true }));

test.run();
