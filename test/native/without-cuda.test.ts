// The addon with and without nvcc: with it the kernels are inside, without it the addon loads and says what it lacks.
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { MachineReport } from '../../src/micro-bench/machine-report.js';
import { loadNative } from '../../src/native.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const build = path.join(root, 'build');
const scratch = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-without-cuda-'));

/** What `vllm-pd info` says in a copy of the package whose addon is `addon`. */
function infoWith(addon: string, env: Readonly<Record<string, string>>): MachineReport {
  const folder = path.join(scratch, 'package');
  if (!existsSync(folder)) {
    for (const name of ['build', 'native']) mkdirSync(path.join(folder, name), { recursive: true });
    for (const name of ['package.json', 'oclif.manifest.json', 'dist/src', 'dist/commands'])
      cpSync(path.join(root, name), path.join(folder, name), { recursive: true });
    symlinkSync(path.join(root, 'node_modules'), path.join(folder, 'node_modules'));
    cpSync(addon, path.join(folder, 'build', 'vllm_pd.node'));
  }
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [path.join(folder, 'dist', 'src', 'bin.js'), 'info', '--json'],
    { env: { ...process.env, ...env }, encoding: 'utf8', timeout: 60_000 },
  );
  assert.is(status, 0, stderr);
  return JSON.parse(stdout) as MachineReport;
}

/** The emulated driver as one that brings no kernels of its own. */
function driverWithoutKernels(): string {
  const file = path.join(scratch, 'libcuda_without_kernels.so');
  const bytes = readFileSync(path.join(build, 'libcuda_emulated.so'));
  const name = 'vllm_pd_emulated_driver';
  for (let at = bytes.indexOf(name); at !== -1; at = bytes.indexOf(name)) bytes.write('x', at);
  writeFileSync(file, bytes);
  return file;
}

test('where nvcc compiled the kernels, they are in the addon', () => {
  const { nvcc } = loadNative().build;
  if (nvcc === null) return console.log('skipped: the addon was built without nvcc');
  assert.match(nvcc, /^\d+\.\d+$/);
  const { fatbinBytes } = loadNative().cudaFacts();
  const addon = readFileSync(path.join(build, 'vllm_pd.node'));
  // The magic number of a fatbin.
  assert.ok(
    fatbinBytes > 100_000 && addon.indexOf(Buffer.from([0x50, 0xed, 0x55, 0xba])) > 0,
    `${fatbinBytes}`,
  );
});

test('without nvcc the addon loads, runs on the CPU and says why it does not on a GPU', () => {
  const own = loadNative().build.nvcc === null;
  const addon = path.join(build, ...(own ? [] : ['without-cuda']), 'vllm_pd.node');
  if (!existsSync(addon)) return console.log('skipped: built without node native/build.mjs --checks');
  const none = infoWith(addon, { VLLM_PD_LIBCUDA: '/nowhere/libcuda.so.1' });
  assert.is(none.native.loads, true);
  assert.is(none.native.nvcc, null);
  assert.is(none.native.fatbin_bytes, 0);
  assert.is(none.backends.cpu.works, true);
  assert.match(none.backends.cuda.why_not ?? '', /^There is no CUDA driver/);
  const { backends } = infoWith(addon, { VLLM_PD_LIBCUDA: driverWithoutKernels() });
  assert.is(
    backends.cuda.why_not,
    'The native module was built without CUDA kernels: no nvcc was found, or VLLM_PD_CUDA was off.',
  );
});

test.after(() => rmSync(scratch, { recursive: true, force: true }));

test.run();
