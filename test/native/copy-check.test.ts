// Every way of copying blocks that this machine has copies what it should and nothing else.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

/** Tests run from dist/test, their C++ lies beside their TypeScript. */
const root = path.resolve(import.meta.dirname, '..', '..', '..');
const native = path.join(root, 'native');
const compiler = process.env.CXX ?? 'c++';
const flags = [
  '-std=gnu++17',
  '-O2',
  '-pthread',
  `-I${native}`,
  ...(process.arch === 'x64' ? ['-DVLLM_PD_X86'] : []),
];

test('long copies write what memcpy would, whichever is chosen', () => {
  if (spawnSync(compiler, ['--version']).status !== 0) return console.log(`skipped: there is no ${compiler}`);
  const folder = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-copies-'));
  try {
    const program = path.join(folder, 'copy-check');
    const files = [
      path.join(root, 'test', 'native', 'copy-check.cc'),
      ...['copy_choice.cc', 'stream_copy.cc', 'threads.cc'].map((file) => path.join(native, file)),
    ];
    const built = spawnSync(compiler, [...flags, ...files, '-o', program], { encoding: 'utf8' });
    assert.is(built.status, 0, built.stderr);
    const { status, stdout, stderr } = spawnSync(program, { encoding: 'utf8' });
    assert.is(status, 0, stderr);
    assert.match(stdout, /^[1-3] ways/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.run();
