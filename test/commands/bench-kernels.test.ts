// The kernel benchmark end to end on the tiny model, with next to no time for each row.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { KernelRun } from '../../src/micro-bench/kernel-bench.js';
import type { KernelRow } from '../../src/micro-bench/kernel-row.js';
import { runCommand } from '../command-runner.js';

const test = suite<{ folder: string }>('bench kernels');
test.before.each((context) => {
  context.folder = mkdtempSync(path.join(tmpdir(), 'vllm-pd-kernels-'));
});
test.after.each(({ folder }) => rmSync(folder, { recursive: true }));

const tiny = ['bench', 'kernels', '--model', 'tiny', '--time', '1'];

const fields: readonly (keyof KernelRow)[] = [
  ...(['family', 'name', 'threads', 'unit', 'value', 'limit', 'limit_value', 'ratio'] as const),
  ...(['asked', 'reached', 'is_reached'] as const),
  ...(['ms_p25', 'ms_p50', 'ms_p75', 'num_rounds'] as const),
  ...(['limit_ms_p25', 'limit_ms_p50', 'limit_ms_p75', 'num_limit_rounds'] as const),
];

function assertMeasured(row: KernelRow): void {
  assert.equal(Object.keys(row), fields);
  for (const [name, value] of Object.entries(row)) {
    if (typeof value === 'number') assert.ok(Number.isFinite(value) && value > 0, `${row.name}: ${name}`);
  }
  assert.ok(Math.abs(row.ratio / (row.value / row.limit_value) - 1) < 0.001, row.name);
  assert.ok(row.ms_p25 <= row.ms_p50 && row.ms_p50 <= row.ms_p75, row.name);
}

// The 4k contexts and 256 MiB of weights are left to the benchmark itself.
for (const [family, filter, names] of [
  ['gemm', 'gemm/int8 16 × 2048 × 2048', ['int8 16 × 2048 × 2048']],
  [
    'attention',
    'attention/prefill 512 over 0',
    ['prefill 512 over 0 float32', 'prefill 512 over 0 bfloat16'],
  ],
  ['forward', 'forward/bfloat16', ['bfloat16 prefill 512', 'bfloat16 decode 1', 'bfloat16 decode 8']],
  ['transfer', '16 blocks', ['shm 16 blocks', 'shm 16 blocks, fragmented', 'tcp 16 blocks']],
  ['server', 'server', ['JSON POST', 'SSE']],
  ['proxy', 'proxy/TTFT, uni', ['TTFT, uni']],
  ['cli', 'cli', ['vllm-pd --version']],
  [
    'core',
    'core',
    [
      'block hash',
      'block pool allocate, free',
      ...[1, 64, 256].map((count) => `schedule, update: ${count} decoding`),
      'cache query of 32k tokens',
    ],
  ],
] as const) {
  test(`${family}: every row has its limit beside it`, async () => {
    const { exitCode, stdout, stderr } = await runCommand([
      ...tiny,
      '--filter',
      filter,
      '--no-keep',
      '--json',
    ]);
    assert.is(exitCode, 0, stderr);
    const { rows } = JSON.parse(stdout) as KernelRun;
    for (const row of rows) assertMeasured(row);
    // A row may be there once for each number of threads.
    assert.equal([...new Set(rows.map((row) => row.family))], [family]);
    assert.equal([...new Set(rows.map(({ name }) => name))], [...names]);
  });
}

test('the run is kept with its rows, and prints a table', async ({ folder }) => {
  const args = [...tiny, '--filter', 'core/block', '--results-dir', folder];
  const { exitCode, stdout, stderr } = await runCommand(args);
  assert.is(exitCode, 0, stderr);
  assert.match(stdout, /block hash .* tokens\/s .* plain SHA-256/);
  assert.match(stdout, 'Kept in');
  const [name] = readdirSync(folder);
  const kept = (file: string) => readFileSync(path.join(folder, name!, file), 'utf8');
  const { run, rows } = JSON.parse(kept('summary.json')) as KernelRun;
  assert.equal(JSON.parse(kept('run.json')), run);
  assert.is(run.id, name);
  assert.is(run.bench, 'kernels');
  assert.is(run.complete, true);
  assert.is(run.time_ms, 1);
  assert.equal(
    kept('rows.jsonl')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as KernelRow),
    rows,
  );
  assert.is(kept('rows.csv').split('\n')[0], fields.join(','));

  const { exitCode: code, stderr: sentence } = await runCommand([
    'compare',
    'latest',
    '--results-dir',
    folder,
  ]);
  assert.is(code, 2, 'a kernel run is no run of conversations');
  assert.match(sentence, /There is no kept run/);
});

test('a filter that no row has: a sentence and exit code 2', async () => {
  const { exitCode, stderr } = await runCommand([...tiny, '--filter', 'nothing', '--no-keep']);
  assert.is(exitCode, 2);
  assert.match(stderr, /no row has 'nothing'/);
});

test.run();
