// compare and export on kept runs, and their answers to what is none.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { keepFiles, keepRun } from '../../src/bench/results.js';
import { type RunSummary, summarizeRun } from '../../src/bench/summary.js';
import { createRunInfo, createTurn } from '../bench/helpers.js';
import { runCommand } from '../command-runner.js';

const turns = (['uni', 'bi'] as const).map((mode) =>
  createTurn({
    mode,
    num_prompt_tokens: 10,
    num_computed_tokens: 10,
    ledger_new: 10,
    ttft_ms: 4,
    e2el_ms: 8,
  }),
);

const test = suite<{ folder: string; at: readonly string[] }>('compare and export');
test.before.each(async (context) => {
  context.folder = mkdtempSync(path.join(tmpdir(), 'vllm-pd-kept-'));
  context.at = ['--results-dir', context.folder];
  for (const id of ['2026-01-01T00-00-00-a', '2026-01-02T00-00-00-b']) {
    await keepRun(context.folder, summarizeRun(createRunInfo({ id }), turns), turns);
  }
});
test.after.each(({ folder }) => rmSync(folder, { recursive: true }));

test('two runs stand side by side', async ({ at }) => {
  const { exitCode, stdout } = await runCommand(['compare', '2026-01-01T00-00-00-a', 'latest', ...at]);
  assert.is(exitCode, 0);
  assert.match(stdout, 'A = 2026-01-01T00-00-00-a');
  assert.match(stdout, 'B = 2026-01-02T00-00-00-b');
});

test('one run prints as it did when it ended', async ({ at }) => {
  const { stdout } = await runCommand(['compare', 'latest', ...at]);
  assert.match(stdout, /^test: neither mode computed prompt tokens again/);
  assert.match(stdout, 'Means by turn number');
});

test('a run may be named behind --goodput, which may be given again', async ({ at }) => {
  const goodput = ['--goodput', 'ttft:200', '--goodput', 'e2el:900'];
  for (const command of [
    ['compare', ...goodput, 'latest'],
    ['export', ...goodput, 'latest', '--format', 'json'],
  ]) {
    const { exitCode, stdout, stderr } = await runCommand([...command, ...at]);
    assert.is(exitCode, 0, stderr);
    assert.ok(stdout.length > 0);
  }
});

test('compare --json gives the summaries with their folders', async ({ folder, at }) => {
  const { stdout } = await runCommand(['compare', 'latest', ...at, '--json']);
  const { runs } = JSON.parse(stdout) as { runs: (RunSummary & { folder: string })[] };
  assert.is(runs[0]!.folder, path.join(folder, '2026-01-02T00-00-00-b'));
  assert.is(runs[0]!.modes.uni!.num_prompt_tokens, 10);
});

test('runs of other benchmarks have no turns to compare or export, which is said', async ({ folder, at }) => {
  for (const bench of ['chaos', 'kernels']) {
    const id = `2026-01-03T00-00-00-${bench}`;
    keepFiles(folder, id, { 'run.json': JSON.stringify({ id, bench }) });
    for (const command of ['compare', 'export']) {
      const { exitCode, stderr } = await runCommand([command, id, ...at]);
      assert.is.not(exitCode, 0);
      assert.match(stderr, `is one of \`vllm-pd bench ${bench}\`, which has no turns`);
      assert.match(stderr, 'summary.json');
    }
  }
});

test('a file is no kept run, which is said', async ({ folder, at }) => {
  const file = path.join(folder, 'report.txt');
  writeFileSync(file, 'text');
  for (const command of ['compare', 'export']) {
    const { exitCode, stderr } = await runCommand([command, file, ...at]);
    assert.is(exitCode, 2);
    assert.match(stderr, /^Error: There is no kept run/);
  }
});

test('export writes each format to stdout or a file', async ({ folder, at }) => {
  const csv = await runCommand(['export', 'latest', '--format', 'csv', ...at]);
  assert.is(csv.stdout.trim().split('\n').length, 3);
  const json = await runCommand(['export', 'latest', '--format', 'json', ...at]);
  assert.is((JSON.parse(json.stdout) as { turns: unknown[] }).turns.length, 2);
  const svg = await runCommand(['export', 'latest', '--format', 'svg', ...at]);
  assert.match(svg.stdout, /^<svg /);
  const file = path.join(folder, 'report.md');
  const markdown = await runCommand(['export', 'latest', '--output', file, ...at]);
  assert.is(markdown.exitCode, 0);
  assert.match(readFileSync(file, 'utf8'), /^# 2026-01-02T00-00-00-b/);
  assert.match(markdown.stdout, `Written to ${file}`);
});

test('what is no kept run, or cannot be written, ends with a sentence', async ({ folder, at }) => {
  const missing = await runCommand(['compare', 'gone', ...at]);
  assert.is(missing.exitCode, 2);
  assert.match(missing.stderr, /There is no kept run 'gone' in/);
  const [first] = readdirSync(folder);
  writeFileSync(path.join(folder, first!, 'turns.jsonl'), 'nonsense');
  const broken = await runCommand(['export', first!, ...at]);
  assert.is(broken.exitCode, 2);
  assert.match(broken.stderr, /Cannot read .*turns\.jsonl/);
  const unwritable = await runCommand(['export', 'latest', '--output', path.join(folder, 'no', 'x'), ...at]);
  assert.is(unwritable.exitCode, 2);
  assert.match(unwritable.stderr, /Cannot write/);
  assert.is((await runCommand(['compare'])).exitCode, 2);
});

test.run();
