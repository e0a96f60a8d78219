// vllm-pd beside other ways to run a decoder from Node: the same generated weights, prompts and thread counts.
// Usage, in this folder: npm install && node compare.mjs [--cycles 2] [--keep | --results-dir ../../results]
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import Table from 'cli-table3';
import { gitCommit, hostInfo } from '../../dist/src/bench/host.js';
import { checkResultsDir, keepFiles, runId } from '../../dist/src/bench/results.js';
import { loadNative } from '../../dist/src/native.js';
import { makePeerModel } from './peer-model.mjs';

const { values: flags } = parseArgs({
  options: {
    cycles: { type: 'string', default: '2' },
    keep: { type: 'boolean', default: false },
    'results-dir': { type: 'string' },
  },
});

const here = path.dirname(fileURLToPath(import.meta.url));
const resultsDir = flags['results-dir'] ?? (flags.keep ? path.join(here, '..', '..', 'results') : null);
if (resultsDir) checkResultsDir(resultsDir);
const startedAt = new Date();
const trialScript = path.join(here, 'trial.mjs');
const trialLimitMs = 180_000;

const model = await makePeerModel(path.join(here, 'work'));

/** What is compared with what: within a group, the first engine is the one that the others are measured against. */
const groups = [
  {
    weights: 'bf16',
    engines: [
      { engine: 'vllm-pd', model: model.folder, options: { dtype: 'bfloat16' } },
      { engine: 'llama.cpp', model: model.bf16 },
    ],
  },
  {
    weights: 'int8',
    engines: [
      { engine: 'vllm-pd', model: model.folder, options: { quantization: 'int8' } },
      { engine: 'llama.cpp', model: model.q8_0 },
    ],
  },
  {
    weights: 'float32',
    engines: [
      { engine: 'vllm-pd', model: model.folder, options: { dtype: 'float32' } },
      { engine: 'transformers.js', model: model.folder },
    ],
  },
];
const threadCounts = [1, 2];

const trials = groups.flatMap(({ weights, engines }) =>
  threadCounts.flatMap((threads) => engines.map((entry) => ({ weights, threads, ...entry, rounds: [] }))),
);

async function play(trial) {
  const args = [
    trialScript,
    trial.engine,
    trial.model,
    String(trial.threads),
    JSON.stringify(trial.options ?? {}),
  ];
  const { stdout } = await promisify(execFile)(process.execPath, args, {
    cwd: here,
    timeout: trialLimitMs,
    maxBuffer: 2 ** 26,
  });
  const result = JSON.parse(stdout.trim().split('\n').at(-1));
  trial.numPromptTokens = result.numPromptTokens;
  trial.numDecodedTokens = result.numDecodedTokens;
  trial.rounds.push(...result.rounds);
}

// Interleaved, so that a noisy minute touches all alike.
for (let cycle = 0; cycle < Number(flags.cycles); cycle++) {
  for (const trial of trials) {
    process.stderr.write(
      `cycle ${cycle + 1}: ${trial.engine} ${trial.weights}, ${trial.threads} thread(s)\n`,
    );
    await play(trial);
  }
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

const rows = trials.map(({ engine, weights, threads, rounds, numPromptTokens, numDecodedTokens }) => ({
  weights,
  engine,
  threads,
  prefill_tokens_per_s: (1000 * numPromptTokens) / median(rounds.map((round) => round.prefillMs)),
  decode_tokens_per_s: (1000 * numDecodedTokens) / median(rounds.map((round) => round.decodeMs)),
  first_tokens: rounds[0].tokens.slice(0, 4),
}));

/** The peer at its better thread count, for each of the two figures by itself. */
function ratioToPeer(row, figure) {
  const peers = rows.filter(({ weights, engine }) => weights === row.weights && engine !== row.engine);
  return row[figure] / Math.max(...peers.map((peer) => peer[figure]));
}

const table = new Table({
  head: [
    'weights',
    'engine',
    'threads',
    'prefill tok/s',
    'decode tok/s',
    '× peer, prefill',
    '× peer, decode',
    'first tokens',
  ],
  style: { head: [], border: [] },
});
for (const row of rows) {
  const ratios =
    row.engine === 'vllm-pd'
      ? ['prefill_tokens_per_s', 'decode_tokens_per_s'].map((figure) => ratioToPeer(row, figure).toFixed(2))
      : ['', ''];
  table.push([
    row.weights,
    row.engine,
    row.threads,
    row.prefill_tokens_per_s.toFixed(0),
    row.decode_tokens_per_s.toFixed(1),
    ...ratios,
    row.first_tokens.join(' '),
  ]);
}
console.log(table.toString());

const versionOf = (name) =>
  JSON.parse(readFileSync(path.join(here, 'node_modules', name, 'package.json'), 'utf8')).version;

if (resultsDir) {
  const endedAt = new Date();
  const id = runId(startedAt, 'peers', '91m');
  const run = {
    id,
    bench: 'peers',
    command: `node compare.mjs ${process.argv.slice(2).join(' ')}`.trim(),
    ...gitCommit(),
    host: hostInfo(),
    isa: loadNative().isa,
    config: {
      cycles: Number(flags.cycles),
      threads: threadCounts,
      num_prompt_tokens: trials[0].numPromptTokens,
      num_decoded_tokens: trials[0].numDecodedTokens,
      peers: Object.fromEntries(
        ['node-llama-cpp', '@huggingface/transformers'].map((name) => [name, versionOf(name)]),
      ),
    },
    started_at: startedAt.toISOString(),
    ended_at: endedAt.toISOString(),
    duration_s: Math.round((endedAt - startedAt) / 100) / 10,
  };
  const json = (value) => `${JSON.stringify(value, null, 2)}\n`;
  // Every round as it was measured; the table can be made of them again.
  const rounds = trials.flatMap(({ engine, weights, threads, rounds }) =>
    rounds.map((round) => JSON.stringify({ weights, engine, threads, ...round })),
  );
  console.log(
    keepFiles(resultsDir, id, {
      'run.json': json(run),
      'rounds.jsonl': `${rounds.join('\n')}\n`,
      'summary.json': json(rows),
      'table.txt': `${table.toString()}\n`,
    }),
  );
}
