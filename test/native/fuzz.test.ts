// Everything native that reads bytes of somebody else's keeps its promises on hostile ones, under sanitizers.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

/** Tests run from dist/test. */
const root = path.resolve(import.meta.dirname, '..', '..', '..');
const sources = path.join(root, 'native', 'fuzz');
const buildDir = path.join(root, 'build', 'fuzz-test');
const compiler = process.env.CXX ?? 'c++';
const targets = ['checksums', 'data_reply', 'data_server', 'packed_file', 'peer_pool', 'weights'];
/** A target ends after so many inputs or seconds, whichever comes first. */
const limits = ['-runs=20000', '-max_total_time=2', '-seed=7'];
const hangsAfterMs = 30_000;

/** Why this machine cannot run them; null when it can. */
function whyNot(): string | null {
  if (spawnSync('cmake', ['--version']).status !== 0) return 'there is no cmake';
  const folder = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-fuzz-'));
  try {
    const file = path.join(folder, 'empty.cc');
    const program = path.join(folder, 'empty');
    writeFileSync(file, 'int main() { return 0; }\n');
    const built = spawnSync(compiler, ['-fsanitize=address,undefined', file, '-o', program]);
    if (built.status !== 0) return `${compiler} cannot link sanitizers`;
    return spawnSync(program).status === 0 ? null : 'programs with sanitizers do not run here';
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function build(): void {
  for (const args of [
    ['-S', sources, '-B', buildDir, `-DCMAKE_CXX_COMPILER=${compiler}`],
    ['--build', buildDir, '--parallel', '2'],
  ]) {
    const { status, stdout, stderr } = spawnSync('cmake', args, { encoding: 'utf8' });
    assert.is(status, 0, `${stdout}${stderr}`);
  }
}

const missing = whyNot();

test('the fuzz targets are those that are listed, each with inputs to begin from', () => {
  assert.equal(
    readdirSync(path.join(sources, 'corpus')).sort(),
    targets,
    'a new target needs a line here, in CMakeLists.txt and in run.mjs',
  );
});

test('the fuzz targets compile', () => {
  if (missing) return console.log(`skipped: ${missing}`);
  mkdirSync(buildDir, { recursive: true });
  build();
});

for (const target of targets) {
  test(`${target} keeps its promises on inputs that reach new code`, () => {
    const program = path.join(buildDir, target);
    if (missing || !existsSync(program)) return console.log(`skipped: ${missing ?? 'it was not compiled'}`);
    const folder = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-fuzz-'));
    try {
      const { status, stdout, stderr, error } = spawnSync(
        program,
        [...limits, path.join(sources, 'corpus', target)],
        { cwd: folder, encoding: 'utf8', timeout: hangsAfterMs, killSignal: 'SIGKILL' },
      );
      assert.is(error, undefined, `${target} did not end by itself`);
      assert.is(status, 0, `${stdout}${stderr}`);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

test.run();
