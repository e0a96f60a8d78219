// vllm-pd info as a process: this machine, with and without a driver, and what it says when something is missing.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { MachineReport } from '../../src/micro-bench/machine-report.js';

const bin = fileURLToPath(new URL('../../src/bin.js', import.meta.url));
const emulatedDriver = fileURLToPath(new URL('../../../build/libcuda_emulated.so', import.meta.url));

function info(env: NodeJS.ProcessEnv, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [bin, 'info', ...args], {
    env: { ...process.env, ...env },
    encoding: 'utf8',
    timeout: 30_000,
  });
  assert.is(status, 0, stderr + stdout);
  return stdout;
}

function report(env: NodeJS.ProcessEnv = {}): MachineReport {
  return JSON.parse(info(env, '--json')) as MachineReport;
}

test('the machine, the module and what works are said as data', () => {
  const { machine, native, backends, kv_agents } = report();
  assert.ok(machine.cores >= 1);
  assert.ok(machine.memory_available_bytes > 0 && machine.memory_available_bytes <= machine.memory_bytes);
  assert.is(native.loads, true);
  assert.match(native.compiler ?? '', /^(GNU|Clang|AppleClang) \d+/);
  assert.is(native.nvcc === null, native.fatbin_bytes === 0);
  assert.is(backends.cpu.works, true);
  assert.match(backends.cpu.detail ?? '', new RegExp(`^${native.isa} kernels on \\d+ cores$`));
  assert.match(backends.onnx.detail ?? backends.onnx.why_not ?? '', /ONNX Runtime/);
  assert.is(kv_agents.shm.works, true);
  assert.is(kv_agents.tcp.works, true);
});

test('the instruction set that was asked for is the one that is shown', () => {
  assert.is(report({ VLLM_PD_ISA: 'portable' }).native.isa, 'portable');
});

test('without a driver it says so, in data and in the table', () => {
  const env = { VLLM_PD_LIBCUDA: '/nowhere/libcuda.so.1' };
  const { cuda, backends } = report(env);
  assert.is(cuda.driver_version, null);
  assert.equal(cuda.devices, []);
  assert.is(backends.cuda.works, false);
  assert.match(
    backends.cuda.why_not ?? '',
    /^There is no CUDA driver: \/nowhere\/libcuda\.so\.1: cannot open/,
  );
  assert.match(info(env), /--backend cuda\s+│ no: There is no CUDA driver/);
});

test('a library that is no driver is too old', () => {
  const library = fileURLToPath(new URL('../../../build/vllm_pd.node', import.meta.url));
  const { backends } = report({ VLLM_PD_LIBCUDA: library });
  assert.match(backends.cuda.why_not ?? '', /is too old: it has no cuInit\.$|^There is no CUDA driver/);
});

test('a driver without a device, an old device and a good one are told apart', () => {
  if (!existsSync(emulatedDriver)) return console.log('skipped: the emulated driver is not built');
  const env = { VLLM_PD_LIBCUDA: emulatedDriver };
  const none = report({ ...env, VLLM_PD_EMULATED_DEVICES: '0' });
  assert.is(none.cuda.driver_version, '13.0');
  assert.is(none.backends.cuda.why_not, 'The CUDA driver finds no device.');
  const old = report({ ...env, VLLM_PD_EMULATED_CAPABILITY: '75' });
  assert.is(
    old.backends.cuda.why_not,
    'Expected a GPU of compute capability 8.0 or above but Emulated GPU has 7.5.',
  );
  const two = report({ ...env, VLLM_PD_EMULATED_DEVICES: '2' });
  assert.is(two.cuda.devices.length, 2);
  assert.equal(two.cuda.devices[0], {
    name: 'Emulated GPU',
    capability: '9.0',
    multiprocessors: 2,
    memory_bytes: 4 * 2 ** 30,
  });
  assert.equal(two.backends.cuda, { works: true, why_not: null, detail: 'Emulated GPU' });
  assert.match(info(env), /GPU 0\s+│ Emulated GPU, compute capability 9\.0, 4\.00 GiB/);
});

test('as a table it fits a usual terminal', () => {
  const widest = Math.max(
    ...info({})
      .split('\n')
      .map((line) => line.length),
  );
  assert.ok(widest <= 80, `${widest} columns`);
});

test('an unknown flag is refused with the help to ask for', () => {
  const { status, stderr } = spawnSync(process.execPath, [bin, 'info', '--nothing'], { encoding: 'utf8' });
  assert.is(status, 2);
  assert.match(stderr, /vllm-pd info --help/);
});

test.run();
