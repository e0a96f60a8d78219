// What a GPU owner runs: every kernel's check, the promises and the figures on the device, kept as a run under results/.
//
//   node test/gpu/run.mjs [--model FOLDER] [--tokens 2048,4096,…] [--quick]
//
// Without a device it says `skipped: …` and ends with 0. Needs a built checkout: npm ci, node native/build.mjs --checks,
// npx tsc -p ., node dist/src/package-cli.js. `--quick`: checks and promises only. The model's default is dummy weights of
// Qwen3-8B's shape, 16 GB, made beside the run.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('../..', import.meta.url));
const build = path.join(root, 'build');
const bin = path.join(root, 'dist', 'src', 'bin.js');
const { values: flags } = parseArgs({
  options: {
    model: { type: 'string' },
    tokens: { type: 'string', default: '2048,4096,8192,16384,24576' },
    quick: { type: 'boolean', default: false },
  },
});
// The tests take the emulated driver unless one is named.
const env = { ...process.env, VLLM_PD_LIBCUDA: process.env.VLLM_PD_LIBCUDA || 'libcuda.so.1' };
const steps = [];

/** Runs one step to its end; its output is part of the run. */
function step(name, command, args) {
  console.log(`# ${name}`);
  const startedAt = performance.now();
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: root,
    env,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  process.stdout.write(`${stdout}${stderr}`);
  const seconds = (performance.now() - startedAt) / 1000;
  steps.push({ name, command: [path.basename(command), ...args], status, seconds, stdout, stderr });
  return { status, stdout, stderr };
}

function keep(folder) {
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, 'gpu.json'), `${JSON.stringify({ steps }, null, 1)}\n`);
  console.log(`kept in ${path.relative(process.cwd(), folder)}`);
}

function evictionWorkload(numTokens) {
  const constant = (value) => ({ distribution: 'constant', value });
  return {
    name: `gpu-${numTokens}`,
    description: `Conversations of ${numTokens} tokens whose KV the prefill node loses between turns.`,
    seed: 0,
    num_clients: 1,
    evict_prefill_between_turns: true,
    conversations: {
      filetype: 'generate_conversations',
      num_conversations: 3,
      text_files: [],
      prompt_input: {
        num_turns: constant(6),
        prefix_num_tokens: constant(numTokens - 256),
        num_tokens: constant(32),
      },
      prompt_output: { num_tokens: constant(64) },
    },
    engine: { max_model_len: numTokens + 2048 },
  };
}

function figures(scratch) {
  step('kernel rates', path.join(build, 'cuda_figures'), []);
  const model = flags.model ?? path.join(scratch, 'qwen3-8b');
  if (!flags.model) step('model', process.execPath, [bin, 'model', 'create', model, '--arch', 'qwen3-8b']);
  step('steps of the model', process.execPath, [path.join(root, 'test', 'gpu', 'model-figures.mjs'), model]);
  for (const numTokens of flags.tokens.split(',').map(Number)) {
    const workload = path.join(scratch, `${numTokens}.json`);
    writeFileSync(workload, JSON.stringify(evictionWorkload(numTokens)));
    step(`cache-eviction at ${numTokens} tokens`, process.execPath, [
      ...[bin, 'bench', 'cache-eviction', '--workload', workload, '--model', model],
      ...['--backend', 'cuda', '--gpu-memory-utilization', '0.45', '--batch-invariant', '--json'],
    ]);
  }
}

const check = existsSync(path.join(build, 'cuda_check'))
  ? step('every kernel against float64', path.join(build, 'cuda_check'), [])
  : { status: 77, stderr: 'skipped: build/cuda_check is not built' };
if (check.status === 77) process.exit(0);

for (const test of ['native/cuda-model', 'promises/cuda']) {
  step(`test ${test}`, process.execPath, [path.join(root, 'dist', 'test', `${test}.test.js`)]);
}
const scratch = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-gpu-'));
try {
  if (!flags.quick) figures(scratch);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
const stamp = new Date().toISOString().slice(0, 19).replaceAll(':', '-');
keep(path.join(root, 'results', `${stamp}-gpu`));
const failed = steps.filter(({ status }) => status !== 0).map(({ name }) => name);
if (failed.length > 0) console.log(`failed: ${failed.join(', ')}`);
process.exit(failed.length > 0 ? 1 : 0);
