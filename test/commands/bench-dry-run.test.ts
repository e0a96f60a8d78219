// --dry-run: its forecast against a run of the same workload, and what it says of a trace.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Forecast } from '../../src/bench/forecast/forecast.js';
import type { RunSummary } from '../../src/bench/summary.js';
import { runCommand } from '../command-runner.js';

const test = suite<{ folder: string }>('bench --dry-run');
test.before.each((context) => {
  context.folder = mkdtempSync(path.join(tmpdir(), 'vllm-pd-bench-'));
});
test.after.each(({ folder }) => rmSync(folder, { recursive: true }));

const tiny = ['--model', 'tiny', '--num-threads', '1'];
const sample = (name: string) =>
  fileURLToPath(new URL(`../../../test/bench/datasets/${name}`, import.meta.url));

/** The same command with and without nodes; what is compared is what no clock has a part in. */
async function measuredAndForecast(args: readonly string[]) {
  const common = [
    'bench',
    'multi-turn',
    ...tiny,
    '--no-keep',
    '--json',
    '--kv-cache-dtype',
    'float32',
    ...args,
  ];
  const [measured, foretold] = [await runCommand(common), await runCommand([...common, '--dry-run'])];
  assert.is(measured.exitCode, 0, measured.stderr);
  assert.is(foretold.exitCode, 0, foretold.stderr);
  const { modes } = JSON.parse(measured.stdout) as RunSummary;
  const forecast = JSON.parse(foretold.stdout) as Forecast;
  return (['uni', 'bi'] as const).map((mode) => {
    const run = modes[mode]!;
    const { ledger, num_blocks_p_to_d, num_blocks_d_to_p } = forecast.played.scenarios.configured[mode];
    const bytes = forecast.kv.bytes_per_block;
    return {
      measured: { ledger: run.ledger, to_d: run.kv_bytes_p_to_d, to_p: run.kv_bytes_d_to_p },
      forecast: { ledger, to_d: num_blocks_p_to_d * bytes, to_p: num_blocks_d_to_p * bytes },
    };
  });
}

test('a dry run says what a run then measures, every bin and every byte, also where a small prefill cache loses ends of conversations', async ({
  folder,
}) => {
  const workload = path.join(folder, 'small.json');
  const constant = (value: number) => ({ distribution: 'constant', value });
  writeFileSync(
    workload,
    JSON.stringify({
      name: 'small',
      conversations: {
        num_conversations: 4,
        prompt_input: {
          num_turns: constant(6),
          prefix_num_tokens: { distribution: 'uniform', min: 40, max: 240 },
          num_tokens: constant(40),
        },
        prompt_output: { num_tokens: constant(90) },
      },
      engine: { prefill: { num_blocks: 60 } },
    }),
  );
  const [uni, bi] = await measuredAndForecast(['--workload', workload]);
  assert.equal(uni!.forecast, uni!.measured);
  assert.equal(bi!.forecast, bi!.measured);
  const { local_hit: found, evicted } = uni!.measured.ledger;
  assert.ok(found > 0 && evicted > 0, `${found} found, ${evicted} evicted`);
});

test('a dry run of a trace shows what would be played and the whole file, for a model of any published shape', async () => {
  const args = [
    'bench',
    'multi-turn',
    '--workload',
    sample('mooncake.jsonl'),
    '--dry-run',
    '--num-conversations',
    '1',
  ];
  const { exitCode, stdout, stderr } = await runCommand([
    ...args,
    '--model',
    'llama-3.1-8b',
    '--num-blocks',
    '4000',
  ]);
  assert.is(exitCode, 0, stderr);
  assert.match(stdout, 'No node was started');
  assert.match(stdout, 'KV of llama-3.1-8b: 128 KiB a token');
  const json = await runCommand([...args, '--model', 'tiny', '--json']);
  const { played, whole_file } = JSON.parse(json.stdout) as Forecast;
  assert.equal([played.num_turns, whole_file!.num_turns], [3, 6]);
  assert.is(whole_file!.prompt_tokens.max, 1600);
  assert.is(whole_file!.retention!.turn_gap_ms.p50, 2500);
});

test.run();
