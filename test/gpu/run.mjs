// What a GPU owner runs: every kernel's check, the promises and the figures on the device, kept as a run under results/.
// README.md beside this file says what has to be there, and how to carry it to a machine without npm.
//
//   node test/gpu/run.mjs [--steps checks,sanitizer,tests,kernels,torch,model,oracle,peer,eviction] [--model FOLDER]
//                         [--tokens 2048,4096,…] [--results FOLDER] [--small]
//
// Without a device it says `skipped: …` and ends with 0. The model's default is dummy weights of Qwen3-8B's shape, 16 GB,
// made beside the run. `--small`: sizes for the emulated driver, to see that all of this works; its rates say nothing.
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { figureTable, inWords } from './figure-table.mjs';
import { gpuHost } from './gpu-host.mjs';
import { Steps } from './steps.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const here = path.join(root, 'test', 'gpu');
const build = path.join(root, 'build');
const bin = path.join(root, 'dist', 'src', 'bin.js');
const node = process.execPath;
const names = ['checks', 'sanitizer', 'tests', 'kernels', 'torch', 'model', 'oracle', 'peer', 'eviction'];
const { values: flags } = parseArgs({
  options: {
    steps: { type: 'string', default: names.join(',') },
    model: { type: 'string' },
    tokens: { type: 'string' },
    results: { type: 'string', default: path.join(root, 'results') },
    small: { type: 'boolean', default: false },
  },
});
const wanted = flags.steps.split(',');
const unknown = wanted.filter((name) => !names.includes(name));
if (unknown.length > 0) {
  console.error(`Expected steps of ${names.join(', ')} but received ${unknown.join(', ')}.`);
  process.exit(2);
}
// The tests take the emulated driver unless one is named.
const env = { ...process.env, VLLM_PD_LIBCUDA: process.env.VLLM_PD_LIBCUDA || 'libcuda.so.1' };
const steps = new Steps(root, env);
const numPrompt = flags.small ? '48' : '8192';
const tokens = flags.tokens ?? (flags.small ? '320' : '2048,4096,8192,16384,24576');

/** With as much prefix as P can lose between turns. */
function evictionWorkload(numTokens) {
  const constant = (value) => ({ distribution: 'constant', value });
  const [turns, answer, conversations] = flags.small ? [4, 8, 1] : [6, 64, 3];
  return {
    name: `gpu-${numTokens}`,
    description: `Conversations of ${numTokens} tokens whose KV the prefill node loses between turns.`,
    seed: 0,
    num_clients: 1,
    evict_prefill_between_turns: true,
    conversations: {
      filetype: 'generate_conversations',
      num_conversations: conversations,
      text_files: [],
      prompt_input: {
        num_turns: constant(turns),
        prefix_num_tokens: constant(numTokens - 256),
        num_tokens: constant(32),
      },
      prompt_output: { num_tokens: constant(answer) },
    },
    engine: { max_model_len: numTokens + 2048 },
  };
}

function checks() {
  steps.run(
    'every kernel against float64',
    path.join(build, 'cuda_check'),
    flags.small ? ['embed', 'graph'] : [],
  );
}

/** A kernel's races and stray accesses, as NVIDIA's own tool sees them. */
function sanitizer() {
  const tool = ['compute-sanitizer', '/usr/local/cuda/bin/compute-sanitizer'].find((file) =>
    steps.starts(file),
  );
  for (const kind of ['memcheck', 'racecheck']) {
    const name = `compute-sanitizer ${kind}`;
    if (!tool) steps.skip(name, 'there is no compute-sanitizer (it comes with the CUDA toolkit)');
    else steps.run(name, tool, ['--tool', kind, '--error-exitcode', '9', path.join(build, 'cuda_check')]);
  }
}

function tests() {
  for (const test of ['native/cuda-model', 'native/cublaslt', 'promises/cuda']) {
    steps.run(`test ${test}`, node, [path.join(root, 'dist', 'test', `${test}.test.js`)]);
  }
}

function python(name, script, ...args) {
  const command = ['python3', 'python'].find((file) => steps.starts(file));
  if (!command) steps.skip(name, 'there is no python3');
  else steps.run(name, command, [path.join(here, script), ...args]);
}

/** The model that whole steps and conversations are measured with. */
function measuredModel(scratch) {
  if (flags.model) return flags.model;
  const folder = path.join(scratch, 'measured');
  if (!existsSync(folder)) steps.run('model', node, [bin, 'model', 'create', folder, ...archOf('qwen3-8b')]);
  return folder;
}

const archOf = (name) => ['--arch', flags.small ? 'tiny' : name];

/** Small enough that transformers can hold it in float32 as well. */
function oracle(scratch) {
  const folder = path.join(scratch, 'compared');
  steps.run('model to compare', node, [bin, 'model', 'create', folder, ...archOf('qwen3-0.6b')]);
  const answers = path.join(scratch, 'answers');
  steps.run('greedy answers and their logits', node, [
    path.join(here, 'greedy-logits.mjs'),
    folder,
    answers,
    numPrompt,
  ]);
  python('transformers as oracle', 'oracle.py', folder, answers);
}

function eviction(scratch) {
  const model = measuredModel(scratch);
  for (const numTokens of tokens.split(',').map(Number)) {
    const workload = path.join(scratch, `${numTokens}.json`);
    writeFileSync(workload, JSON.stringify(evictionWorkload(numTokens)));
    steps.run(`cache-eviction at ${numTokens} tokens`, node, [
      ...[bin, 'bench', 'cache-eviction', '--workload', workload, '--model', model],
      ...['--backend', 'cuda', '--gpu-memory-utilization', '0.45', '--batch-invariant', '--json'],
      '--no-keep',
    ]);
  }
}

const actions = {
  checks,
  sanitizer,
  tests,
  kernels: () => steps.run('kernel rates', path.join(build, 'cuda_figures'), flags.small ? ['--small'] : []),
  torch: () => python('PyTorch attention', 'sdpa.py', ...(flags.small ? ['--small'] : [])),
  model: (scratch) =>
    steps.run('steps of the model', node, [
      path.join(here, 'model-figures.mjs'),
      measuredModel(scratch),
      numPrompt,
    ]),
  oracle,
  peer: (scratch) => python('transformers as peer', 'peer.py', measuredModel(scratch), numPrompt),
  eviction,
};

const host = gpuHost(root, env);
if (host.why_not) {
  console.log(`skipped: ${host.why_not}`);
  process.exit(0);
}
const scratch = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-gpu-'));
try {
  for (const name of names) if (wanted.includes(name)) actions[name](scratch);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
const figures = figureTable(steps.done);
const stamp = new Date().toISOString().slice(0, 19).replaceAll(':', '-');
const folder = path.join(flags.results, `${stamp}-gpu`);
mkdirSync(folder, { recursive: true });
const config = {
  small: flags.small,
  tokens,
  model: flags.model ?? 'dummy weights of Qwen3-8B',
  steps: wanted,
};
const command = ['node', 'test/gpu/run.mjs', ...process.argv.slice(2)].join(' ');
const kept = { command, host, config, figures, steps: steps.done };
writeFileSync(path.join(folder, 'gpu.json'), `${JSON.stringify(kept, null, 1)}\n`);
const text = inWords(kept);
writeFileSync(path.join(folder, 'table.md'), text);
console.log(`\n${text}\nkept in ${path.relative(process.cwd(), folder)}`);
process.exit(steps.failed().length > 0 ? 1 : 0);
