// vllm-pd model create and model inspect as a user runs them: output, --json, exit codes, sentences.
import { execFile } from 'node:child_process';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { startCommand } from '../command-runner.js';
import { byteLevelTokenizer, withFolder } from './model-folders.js';

const bin = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../src/bin.js');

interface Outcome {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

function runModel(cache: string, ...args: readonly string[]): Promise<Outcome> {
  const env = { ...process.env, VLLM_PD_CACHE: cache, FORCE_COLOR: '0' };
  return new Promise((resolve) => {
    execFile(process.execPath, [bin, 'model', ...args], { env, timeout: 60_000 }, (error, stdout, stderr) => {
      resolve({ exitCode: error === null ? 0 : Number(error.code ?? -1), stdout, stderr });
    });
  });
}

test('create writes a folder that inspect describes', () =>
  withFolder({}, async (cache) => {
    const folder = path.join(cache, 'new');
    const created = await runModel(cache, 'create', folder, '--arch', 'tiny', '--seed', '3', '--json');
    assert.is(created.exitCode, 0, created.stderr);
    assert.equal(JSON.parse(created.stdout), {
      path: folder,
      arch: 'tiny',
      seed: 3,
      num_parameters: 706_240,
    });
    assert.is(created.stderr, '');
    const inspected = await runModel(cache, 'inspect', folder, '--json', '--block-size', '32');
    assert.is(inspected.exitCode, 0, inspected.stderr);
    const report = JSON.parse(inspected.stdout);
    assert.is(report.path, folder);
    assert.is(report.kv_bytes_per_block, 32 * report.kv_bytes_per_token);
    assert.is(report.history_round_trip, 'any_answer');
  }));

test('Ctrl-C while a model is written ends with 130, and nothing of it stays', () =>
  withFolder({}, async (parent) => {
    const command = startCommand([
      'model',
      'create',
      path.join(parent, 'big'),
      '--arch',
      'smollm2-360m',
      '--json',
    ]);
    while ((await readdir(parent)).length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    process.kill(command.pid, 'SIGINT');
    const { exitCode, stdout } = await command.result;
    assert.is(exitCode, 130);
    assert.is((JSON.parse(stdout) as { error: { code: string } }).error.code, 'INTERRUPTED');
    assert.equal(await readdir(parent), []);
  }));

test('inspect of an embedded model makes it in the cache and prints a table', () =>
  withFolder({}, async (cache) => {
    const { exitCode, stdout, stderr } = await runModel(cache, 'inspect', 'tiny');
    assert.is(exitCode, 0, stderr);
    for (const text of ['qwen3 (q/k norm, untied embeddings)', '706,240', '1,024 bytes', '32,768 tokens']) {
      assert.match(stdout, text);
    }
    assert.equal(await readdir(path.join(cache, 'models')), ['tiny-0-v1']);
  }));

const foreign = {
  model_type: 'gemma3_text',
  vocab_size: 300,
  max_position_embeddings: 2048,
  eos_token_id: 257,
};

test('inspect says which field keeps the native module from a model, and that its graphs run all the same', async () => {
  const files = {
    'config.json': foreign,
    'tokenizer.json': byteLevelTokenizer([], ['<s>', '</s>']),
    'chat_template.jinja': "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}",
  };
  await withFolder(files, async (folder) => {
    const alone = await runModel(folder, 'inspect', folder);
    assert.is(alone.exitCode, 2);
    assert.match(alone.stderr, /config\.json: .*model_type.*gemma3_text/);
    await mkdir(path.join(folder, 'onnx'));
    for (const name of ['model_q4.onnx', 'model_fp16.onnx']) {
      await writeFile(path.join(folder, 'onnx', name), 'a graph');
    }
    const { exitCode, stdout, stderr } = await runModel(folder, 'inspect', folder, '--json');
    assert.is(exitCode, 0, stderr);
    const report = JSON.parse(stdout);
    assert.equal(
      [report.backends, report.onnx_files, report.model_type, report.num_hidden_layers],
      [['onnx'], ['model_fp16.onnx', 'model_q4.onnx'], 'gemma3_text', undefined],
    );
    assert.match(report.unsupported, /model_type.*gemma3_text/);
    assert.equal([report.tokenizer, report.chat_template], ['BPE, byte-level', 'chat_template.jinja']);
    assert.is(report.history_changes[0].answer, 'reasoning');
    const table = await runModel(folder, 'inspect', folder);
    assert.match(table.stdout, /not on cpu/);
    assert.match(table.stdout, /generated KV cannot be reused past token/);
  });
});

const failures: readonly (readonly [args: readonly string[], exitCode: number, message: RegExp])[] = [
  [['inspect', 'nothing-like-this'], 2, /no model 'nothing-like-this': expected default, tiny/],
  [['inspect', '.'], 2, /is not a model folder: it has no config\.json/],
  [['inspect', 'tiny', '--block-size', '0'], 2, /block-size/],
  [['create'], 2, /folder/],
  [['create', '.', '--arch', 'tiny'], 2, /has content already/],
  [['create', 'x', '--arch', 'huge'], 2, /arch/],
  [['create', 'x', '--seed', '-1'], 2, /seed/],
];

for (const [args, exitCode, message] of failures) {
  test(`model ${args.join(' ')} fails with exit code ${exitCode} and a sentence`, () =>
    withFolder({}, async (cache) => {
      const outcome = await runModel(cache, ...args);
      assert.is(outcome.exitCode, exitCode, outcome.stderr);
      assert.match(outcome.stderr, message);
      assert.is(outcome.stdout, '');
    }));
}

test.run();
