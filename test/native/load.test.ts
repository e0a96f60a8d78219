// What happens where the native module is missing, cannot be compiled, or is left in the middle of its work.
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadNative } from '../../src/native.js';

const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.resolve(here, '../../..');
const busy = path.join(here, 'busy-process.js');

function withFolder(body: (folder: string) => Promise<void> | void): () => Promise<void> {
  return async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-load-'));
    try {
      await body(folder);
    } finally {
      rmSync(folder, { recursive: true });
    }
  };
}

test('the module is loaded once and names its kernels', () => {
  assert.is(loadNative(), loadNative());
  assert.match(loadNative().isa, /^(portable|avx2|avx512|avx512_vnni|avx512_bf16|amx)$/);
});

test(
  'a package without its compiled module says so and what to do',
  withFolder(async (folder) => {
    // What native.ts may import: the vocabulary, which lies beside it, and its own folder.
    const source = path.join(root, 'dist/src');
    for (const name of readdirSync(source).filter((name) => name === 'native' || name.endsWith('.js'))) {
      cpSync(path.join(source, name), path.join(folder, 'dist/src', name), { recursive: true });
    }
    mkdirSync(path.join(folder, 'native'));
    writeFileSync(path.join(folder, 'package.json'), '{"type": "module"}');
    const copy = await import(pathToFileURL(path.join(folder, 'dist/src/native.js')).href);
    try {
      copy.loadNative();
      assert.unreachable('it was found');
    } catch (error) {
      const { code, message, suggestions } = error as {
        code: string;
        message: string;
        suggestions: readonly string[];
      };
      assert.is(code, 'NATIVE_UNAVAILABLE');
      assert.ok(message.includes(path.join(folder, 'build', 'vllm_pd.node')));
      assert.match(suggestions.join(' '), /node native\/build\.mjs.*apt-get install cmake g\+\+/);
    }
  }),
);

test(
  'without CMake or a compiler the install ends with one sentence that says what to install',
  withFolder((folder) => {
    const build = path.join(root, 'native/build.mjs');
    const env = { PATH: folder };
    const { status, stderr } = spawnSync(process.execPath, [build], { env, encoding: 'utf8' });
    assert.is(status, 1);
    assert.is(stderr, 'vllm-pd needs CMake and a C++17 compiler: apt-get install cmake g++\n');
  }),
);

test('a process that exits during a forward pass exits with its own code', () => {
  const { status, signal, stderr } = spawnSync(process.execPath, [busy], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  assert.is(signal, null, stderr);
  assert.is(status, 7, stderr);
});

test('a worker that is ended during a forward pass leaves its process whole', async () => {
  const worker = new Worker(busy);
  await once(worker, 'message');
  await worker.terminate();
  assert.match(loadNative().isa, /\w/);
});

test.run();
