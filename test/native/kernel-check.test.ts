// The AMX kernels, built on tiles in plain C++, give what a plain product gives, on machines without AMX too.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

/** Tests run from dist/test, their C++ lies beside their TypeScript. */
const root = path.resolve(import.meta.dirname, '..', '..', '..');
const native = path.join(root, 'native');
const sources = path.join(root, 'test', 'native');
const compiler = process.env.CXX ?? 'c++';

// The build for AMX, without the instructions that this machine may lack.
const flags = [
  ...['-std=gnu++17', '-O1', '-Wno-psabi', '-ffp-contract=off', '-fno-math-errno', '-DVLLM_PD_AMX'],
  '-DVLLM_PD_KERNELS=kernels_checked',
  '-DVLLM_PD_ISA_NAME="amx in plain C++"',
  `-DVLLM_PD_AMX_TILES="${path.join(sources, 'amx-tiles.h')}"`,
  `-I${native}`,
];

/** The checker's output, or null where it cannot be compiled here. */
function runCheck(extraFlags: readonly string[] = []): { code: number | null; output: string } | null {
  if (spawnSync(compiler, ['--version']).status !== 0) return null;
  const folder = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-kernels-'));
  try {
    const program = path.join(folder, 'kernel-check');
    const files = [
      path.join(sources, 'kernel-check.cc'),
      ...['cpu/kernels.cc', 'cpu/packed_matrix.cc'].map((file) => path.join(native, file)),
    ];
    const built = spawnSync(compiler, [...flags, ...extraFlags, ...files, '-o', program], {
      encoding: 'utf8',
    });
    assert.is(built.status, 0, built.stderr);
    const { status, stdout, stderr } = spawnSync(program, { encoding: 'utf8' });
    return { code: status, output: stdout + stderr };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('products and attention in AMX tiles are right for every number of rows, and the same alone as among others', () => {
  const result = runCheck();
  if (result === null) return console.log(`skipped: there is no compiler ${compiler}`);
  assert.is(result.code, 0, result.output);
  assert.match(result.output, /amx in plain C\+\+: 100 products, 8 gated, 9 times attention/);
});

test.run();
