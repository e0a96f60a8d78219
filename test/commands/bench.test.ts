// The benchmark commands end to end on the tiny model: real nodes, real transfers, the figures as JSON.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { RunInfo } from '../../src/bench/run-info.js';
import type { RunSummary } from '../../src/bench/summary.js';
import type { TurnRecord } from '../../src/bench/turn-record.js';
import { ledgerBins } from '../../src/wire.js';
import { runCommand, startCommand } from '../command-runner.js';
import { allGone, descendantsOf } from '../processes.js';
import { withCluster } from '../with-cluster.js';

const test = suite<{ folder: string }>('bench');
test.before.each((context) => {
  context.folder = mkdtempSync(path.join(tmpdir(), 'vllm-pd-bench-'));
});
test.after.each(({ folder }) => rmSync(folder, { recursive: true }));

const tiny = ['--model', 'tiny', '--num-threads', '1'];

function readTurns(folder: string): TurnRecord[] {
  const text = readFileSync(path.join(folder, 'turns.jsonl'), 'utf8');
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as TurnRecord);
}

test('bench multi-turn --json prints the promised names, and what it measured holds', async ({ folder }) => {
  const args = ['bench', 'multi-turn', '--workload', 'smoke', ...tiny, '--results-dir', folder, '--json'];
  const { exitCode, stdout, stderr } = await runCommand(args);
  assert.is(exitCode, 0, stderr);
  const summary = JSON.parse(stdout) as RunSummary;
  assert.equal(Object.keys(summary), ['run', 'modes', 'comparison']);
  assert.equal(Object.keys(summary.modes), ['uni', 'bi']);
  for (const mode of [summary.modes.uni!, summary.modes.bi!]) {
    assert.is(mode.num_turns, 6);
    assert.is(mode.num_failed_turns, 0);
    assert.equal(Object.keys(mode.ledger), [...ledgerBins]);
    assert.is(
      ledgerBins.reduce((sum, bin) => sum + mode.ledger[bin], 0),
      mode.num_prompt_tokens,
    );
    assert.is(mode.num_template_mismatches, 0);
    assert.equal(mode.closed_form, { num_checked: 6, num_equal: 6 });
    for (const metric of [mode.ttft_ms, mode.tpot_ms, mode.itl_ms!, mode.e2el_ms, mode.normalized_tpot_ms]) {
      assert.equal(Object.keys(metric), ['mean', 'std', 'p50', 'p90', 'p99']);
      assert.ok(Object.values(metric).every((value) => value > 0));
    }
    assert.ok(mode.ttft_ms.p50! < mode.e2el_ms.p50!);
    assert.ok(mode.kv_bytes_p_to_d > 0);
  }
  const { uni, bi } = summary.modes;
  assert.is(uni!.kv_bytes_d_to_p, 0);
  assert.ok(bi!.kv_bytes_d_to_p > 0);
  assert.is(bi!.ledger.generated_on_d, 0);
  assert.is(uni!.ledger.pulled_from_d, 0);
  const { comparison } = summary;
  assert.is(comparison!.num_turns, 6);
  assert.is(comparison!.num_identical_outputs, 6);
  assert.ok(comparison!.recomputed_tokens_ratio! < 0.3);
  assert.ok(comparison!.ttft_speedup_p50! > 0 && comparison!.ttft_speedup_mean! > 0);
  assert.ok(summary.run.checks.every(({ ok }) => ok));

  const [name] = readdirSync(folder);
  assert.is(name, summary.run.id);
  const kept = path.join(folder, name!);
  assert.equal(JSON.parse(readFileSync(path.join(kept, 'summary.json'), 'utf8')), summary);
  const run = JSON.parse(readFileSync(path.join(kept, 'run.json'), 'utf8')) as RunInfo;
  assert.is(run.complete, true);
  assert.match(run.command, /^vllm-pd bench multi-turn --workload smoke --model tiny /);
  assert.is(run.config!.model, 'tiny');
  assert.match(run.workload.sha256, /^[0-9a-f]{64}$/);
  const turns = readTurns(kept);
  assert.is(turns.filter(({ warmup }) => !warmup).length, 12);
  for (const turn of turns) assert.match(turn.output_sha256!, /^[0-9a-f]{64}$/);
  const header = readFileSync(path.join(kept, 'turns.csv'), 'utf8').split('\n')[0]!.split(',');
  assert.equal(header, [...Object.keys(turns[0]!), 'pull_regret_ms']);
});

test('bench cache-eviction evicts between turns: uni computes everything again, bi pulls it', async ({
  folder,
}) => {
  const { exitCode, stdout, stderr } = await runCommand([
    ...['bench', 'cache-eviction', ...tiny, '--results-dir', folder],
    ...['--prefix-tokens', '400', '--num-conversations', '2', '--num-turns', '2', '--output-tokens', '8'],
  ]);
  assert.is(exitCode, 0, stderr);
  assert.match(stdout, /bi computed >?\d+ % fewer prompt tokens again/);
  assert.match(stdout, '4/4 outputs identical');
  assert.match(stdout, 'again: evicted');
  const turns = readTurns(path.join(folder, readdirSync(folder)[0]!)).filter(
    ({ turn, warmup }) => turn > 1 && !warmup,
  );
  for (const turn of turns) {
    assert.is(turn.ledger_local_hit, 0);
    const full = Math.floor((turn.num_history_tokens - 1) / 16) * 16;
    if (turn.mode === 'bi') assert.is(turn.ledger_pulled_from_d, full);
    else assert.is(turn.num_computed_tokens, turn.num_prompt_tokens);
  }
});

test('tickets instead of queries, two clients, and vLLM’s conversation file', async () => {
  const { exitCode, stdout, stderr } = await runCommand([
    ...['bench', 'multi-turn', ...tiny, '--no-keep', '--json'],
    ...['--workload', 'vllm-conversations', '--kv-lookup', 'ticket', '--num-clients', '2'],
  ]);
  assert.is(exitCode, 0, stderr);
  const summary = JSON.parse(stdout) as RunSummary;
  assert.is(summary.comparison!.num_identical_outputs, 4);
  assert.equal(summary.modes.bi!.closed_form, { num_checked: 4, num_equal: 4 });
});

test('--url measures a proxy that runs already and finds out its mode', async ({ folder }) => {
  await withCluster({ engine: { kvTransfer: { mode: 'uni' } } }, async ({ proxyUrl }) => {
    const common = ['bench', 'multi-turn', '--url', proxyUrl, '--workload', 'smoke', '--results-dir', folder];
    const { exitCode, stdout, stderr } = await runCommand([
      ...common,
      '--limit',
      '4',
      '--seed',
      '3',
      '--json',
    ]);
    assert.is(exitCode, 0, stderr);
    const summary = JSON.parse(stdout) as RunSummary;
    assert.equal(Object.keys(summary.modes), ['uni']);
    assert.is(summary.modes.uni!.num_turns, 4);
    assert.is(summary.comparison, null);
    assert.is(summary.run.config, null);

    const wrong = await runCommand([...common, '--mode', 'bi']);
    assert.is(wrong.exitCode, 2);
    assert.match(wrong.stderr, /Expected a proxy in mode bi .* but it runs in mode uni/);
  });
});

const refusals: readonly (readonly [string, readonly string[], number, RegExp])[] = [
  ['an unknown workload', ['--workload', 'nothing'], 2, /There is no workload 'nothing'/],
  ['an unknown mode', ['--mode', 'tri'], 2, /--mode=tri/],
  ['no conversations', ['--num-conversations', '0'], 2, /num-conversations/],
  ['a rate of nothing', ['--request-rate', '0'], 2, /Expected a number above 0 but received: 0/],
  [
    'bursts without a rate',
    ['--burstiness', '2'],
    2,
    /--burstiness applies to turns that arrive at a --request-rate/,
  ],
  [
    'both modes of a proxy',
    ['--url', 'http://127.0.0.1:1', '--mode', 'both'],
    2,
    /Expected --mode uni or bi/,
  ],
  [
    'engine flags for a proxy',
    ['--url', 'http://127.0.0.1:1', '--block-size', '8'],
    2,
    /its nodes run already/,
  ],
  ['nodes for a proxy', ['--url', 'http://127.0.0.1:1', '--prefill', '2'], 2, /its nodes run already/],
  ['a proxy that is not there', ['--url', 'http://127.0.0.1:1'], 5, /Cannot reach http:\/\/127\.0\.0\.1:1/],
  ['a model that is not there', ['--model', '/no/such/model'], 2, /no\/such\/model/],
  [
    'token counts for a conversation file',
    ['--workload', 'vllm-conversations', '--prompt-tokens', '5'],
    2,
    /--prompt-tokens applies/,
  ],
];

for (const [name, args, code, message] of refusals) {
  test(`${name}: a sentence and exit code ${code}`, async ({ folder }) => {
    const { exitCode, stderr } = await runCommand(['bench', 'multi-turn', ...args, '--results-dir', folder]);
    assert.match(stderr, message);
    assert.is(exitCode, code);
    assert.equal(readdirSync(folder), []);
  });
}

test('turns that are refused are recorded, the run is kept, and the exit code is 6', async ({ folder }) => {
  const { exitCode, stdout, stderr } = await runCommand([
    ...['bench', 'multi-turn', ...tiny, '--workload', 'smoke', '--mode', 'bi', '--max-model-len', '250'],
    ...['--results-dir', folder, '--json'],
  ]);
  assert.is(exitCode, 6, stderr);
  assert.match(stderr, 'Expected that every turn was answered');
  const summary = JSON.parse(stdout) as RunSummary;
  assert.ok(summary.modes.bi!.num_failed_turns > 0);
  assert.ok(summary.modes.bi!.num_turns > summary.modes.bi!.num_failed_turns);
  const failed = readTurns(path.join(folder, readdirSync(folder)[0]!)).filter(({ error }) => error !== null);
  assert.match(failed[0]!.error!, /answered 400: .*250/);
});

test('Ctrl-C keeps what was measured, marks it as not complete, and leaves no process', async ({
  folder,
}) => {
  const command = startCommand([
    ...[
      'bench',
      'multi-turn',
      ...tiny,
      '--num-conversations',
      '200',
      '--results-dir',
      folder,
      '--mode',
      'bi',
      '--log-level',
      'debug',
    ],
  ]);
  try {
    // Some 30 s of turns lie ahead of the first one.
    await command.stderrHas('turn played');
    const pids = descendantsOf(command.child.pid!);
    assert.ok(pids.length >= 2);
    command.interrupt();
    const { exitCode } = await command.result;
    assert.is(exitCode, 130);
    assert.is(await allGone(pids), true);
    const [name] = readdirSync(folder);
    assert.ok(name, 'nothing was kept');
    const run = JSON.parse(readFileSync(path.join(folder, name!, 'run.json'), 'utf8')) as RunInfo;
    assert.is(run.complete, false);
    assert.ok(readTurns(path.join(folder, name!)).length > 0);
  } finally {
    command.child.kill('SIGKILL');
  }
});

test('--help of each command has examples', async () => {
  for (const command of [['bench', 'multi-turn'], ['bench', 'cache-eviction'], ['compare'], ['export']]) {
    const { exitCode, stdout } = await runCommand([...command, '--help']);
    assert.is(exitCode, 0);
    assert.match(stdout, 'EXAMPLES');
  }
});

test.run();
