// The benchmark on several nodes of a role, and on nodes that are not this project's.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { RunSummary } from '../../src/bench/summary.js';
import type { TurnRecord } from '../../src/bench/turn-record.js';
import { vllmNode } from '../clients/vllm-node.js';
import { runCommand } from '../command-runner.js';
import { withProxy } from '../server/proxy/setup.js';

const tiny = ['--model', 'tiny', '--num-threads', '1'];

function readTurns(folder: string): TurnRecord[] {
  const lines = readFileSync(path.join(folder, 'turns.jsonl'), 'utf8').split('\n').filter(Boolean);
  return lines.map((line) => JSON.parse(line) as TurnRecord);
}

test('--url measures vLLM’s nodes behind a proxy: times, and no word about what they do not tell', async () => {
  const scripts = { prefill: [vllmNode('prefill', false)], decode: [vllmNode('decode', false)] };
  const folder = mkdtempSync(path.join(tmpdir(), 'vllm-pd-bench-'));
  await withProxy(scripts, {}, async ({ proxy, decode }) => {
    const args = ['bench', 'multi-turn', '--url', proxy.url, '--workload', 'smoke'];
    const { exitCode, stdout, stderr } = await runCommand([...args, '--limit', '4', '--results-dir', folder]);
    assert.is(exitCode, 0, stderr);
    assert.match(stdout, /smoke: bi answered 4 turns; TTFT p50 /);
    assert.match(stdout, /! 4 turns \(bi\) came without prefill_stats/);
    assert.not.match(stdout, /computed again|local_hit|pools are whole/);
    const turns = readTurns(path.join(folder, readdirSync(folder)[0]!)).filter(({ warmup }) => !warmup);
    assert.equal(
      turns.map((turn) => [turn.error, turn.prefill_unknown, turn.num_prompt_tokens, turn.num_output_tokens]),
      turns.map(() => [null, true, 40, 4]),
    );
    assert.ok(turns.every(({ ttft_ms }) => ttft_ms !== null && ttft_ms > 0));
    // P's blocks went to D in every turn.
    const hops = decode[0]!.callsTo('/v1/chat/completions');
    assert.ok(hops.length >= 4);
    assert.ok(hops.every(({ body }) => Reflect.get(body.kv_transfer_params as object, 'do_remote_prefill')));
  }).finally(() => rmSync(folder, { recursive: true }));
});

test('two nodes of each role: a conversation stays where it is, so that every ledger is still determined', async () => {
  const { exitCode, stdout, stderr } = await runCommand([
    ...['bench', 'multi-turn', ...tiny, '--workload', 'smoke', '--no-keep', '--json'],
    ...['--prefill', '2', '--decode', '2', '--num-turns', '3', '--num-clients', '2'],
  ]);
  assert.is(exitCode, 0, stderr);
  const { run, modes, comparison } = JSON.parse(stdout) as RunSummary;
  const { num_prefill_nodes, num_decode_nodes, prefill_routing } = run.config!;
  assert.equal([num_prefill_nodes, num_decode_nodes, prefill_routing], [2, 2, 'session']);
  assert.equal(modes.bi!.closed_form, { num_checked: 6, num_equal: 6 });
  assert.is(comparison!.num_identical_outputs, 6);
  assert.ok(modes.bi!.ledger.pulled_from_d > 0);
  const pools = run.checks.filter(({ name }) => name.startsWith('pools are whole'));
  assert.equal(
    pools.map(({ ok, detail }) => [ok, detail]),
    [
      [true, '4 nodes'],
      [true, '4 nodes'],
    ],
  );
});

test('routed in turn, conversations move between nodes, and bi still computes less again than uni', async () => {
  const { exitCode, stdout, stderr } = await runCommand([
    ...['bench', 'multi-turn', ...tiny, '--workload', 'smoke', '--no-keep', '--json', '--num-turns', '3'],
    ...['--prefill', '2', '--prefill-routing', 'round-robin', '--num-conversations', '1'],
  ]);
  assert.is(exitCode, 0, stderr);
  const { modes, comparison } = JSON.parse(stdout) as RunSummary;
  assert.is(modes.bi!.closed_form.num_checked, 0);
  assert.is(comparison!.num_identical_outputs, comparison!.num_turns);
  assert.ok(comparison!.recomputed_tokens_ratio! < 0.5);
});

test.run();
