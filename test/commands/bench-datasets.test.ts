// Datasets through the benchmark command on the tiny model: what is played of them, when, and what is said about it.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { RunInfo } from '../../src/bench/run-info.js';
import type { RunSummary } from '../../src/bench/summary.js';
import type { TurnRecord } from '../../src/bench/turn-record.js';
import { runCommand } from '../command-runner.js';

const test = suite<{ folder: string }>('bench datasets');
test.before.each((context) => {
  context.folder = mkdtempSync(path.join(tmpdir(), 'vllm-pd-bench-'));
});
test.after.each(({ folder }) => rmSync(folder, { recursive: true }));

const tiny = ['--model', 'tiny', '--num-threads', '1'];
const sample = (name: string) =>
  fileURLToPath(new URL(`../../../test/bench/datasets/${name}`, import.meta.url));

test('a trace is played scaled: follow-up turns find their history, other conversations the blocks they share', async ({
  folder,
}) => {
  const trace = sample('mooncake.jsonl');
  const { exitCode, stdout, stderr } = await runCommand([
    ...['bench', 'multi-turn', ...tiny, '--results-dir', folder, '--workload', trace],
    ...['--scale', '0.2', '--min-turns', '1', '--num-conversations', '3'],
  ]);
  assert.is(exitCode, 0, stderr);
  assert.match(stdout, 'mooncake: 3 of 4 conversations in 6 rows, lengths × 0.2');
  assert.match(stdout, 'left out: 1 links to a turn before whose history was rewritten');
  const kept = path.join(folder, readdirSync(folder)[0]!);
  const run = JSON.parse(readFileSync(path.join(kept, 'run.json'), 'utf8')) as RunInfo;
  assert.equal(run.workload.overrides, { 'num-conversations': 3, 'min-turns': 1, scale: 0.2 });
  assert.is(run.workload.dataset!.num_conversations, 4);
  const turns = readFileSync(path.join(kept, 'turns.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as TurnRecord)
    .filter(({ warmup }) => !warmup);
  const of = (id: string, turn: number) =>
    turns.filter((one) => one.conversation_id === id && one.turn === turn);
  // First turns of conversations that share a block depend on the order of play; what follows does not.
  assert.ok(
    run.checks.some(
      ({ name, ok, detail }) => name === 'ledger equals the closed form' && ok && detail === '4 turns',
    ),
  );
  // A block of the trace is 102 tokens here: 6 blocks of ours, behind the template's first token.
  for (const turn of of('line-2', 1)) assert.is(turn.ledger_local_hit, 96);
  for (const turn of of('line-1', 2)) assert.ok(turn.ledger_local_hit >= 208);
  assert.ok(
    of('line-1', 3).every(({ num_matching_history_tokens: n, num_history_tokens: all }) => n === all),
  );
});

test('an open loop by the times of a trace: planned, checked and with the same answers in both modes', async () => {
  const trace = sample('bailian.jsonl');
  const { exitCode, stdout, stderr } = await runCommand([
    ...['bench', 'multi-turn', ...tiny, '--no-keep', '--json', '--workload', trace],
    ...['--min-turns', '1', '--time-scale', '0.02'],
  ]);
  assert.is(exitCode, 0, stderr);
  const { run, modes, comparison } = JSON.parse(stdout) as RunSummary;
  assert.equal(run.workload.arrival, { time_scale: 0.02 });
  assert.is(comparison!.num_identical_outputs, 5);
  for (const mode of [modes.uni!, modes.bi!]) assert.ok(mode.schedule_lag_ms!.p50! >= 0);
  assert.ok(run.duration_s >= 2 * 0.79);
});

test.run();
