// Compiles the native module into build/vllm_pd.node: the package's install script, also run by hand after a change.
// With --checks also what the tests need: the emulated CUDA driver and build/cuda_check.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const sourceDir = path.dirname(fileURLToPath(import.meta.url));
const buildDir = path.join(sourceDir, '..', 'build');
const require = createRequire(import.meta.url);

function fail(message) {
  console.error(message);
  process.exit(1);
}

function runs(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
}

/** Quiet unless it fails. */
function cmake(args) {
  const { status, stdout, stderr } = spawnSync('cmake', args, { encoding: 'utf8' });
  if (status !== 0)
    fail(`${stdout}${stderr}\nvllm-pd could not compile its native module; the lines above say why.`);
}

/** Where it is found unless VLLM_PD_CUDA is off; empty without. */
function nvcc() {
  if (process.env.VLLM_PD_CUDA === 'off') return '';
  const candidates = [process.env.NVCC, 'nvcc', '/usr/local/cuda/bin/nvcc'].filter(Boolean);
  return candidates.find(runs) ?? '';
}

function packageDir(name) {
  return path.dirname(require.resolve(`${name}/package.json`));
}

/** A cache made for another place (a copied or moved folder) would build there; CMake refuses it. */
function dropForeignCache() {
  const cache = path.join(buildDir, 'CMakeCache.txt');
  if (!existsSync(cache)) return;
  const home = /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(readFileSync(cache, 'utf8'))?.[1];
  if (home !== sourceDir) rmSync(buildDir, { recursive: true, force: true });
}

if (process.platform !== 'linux') fail('vllm-pd needs Linux: its KV pools are memfds that peers map.');
const compilers = [process.env.CXX, 'c++', 'g++', 'clang++'].filter(Boolean);
if (!runs('cmake') || !compilers.some(runs)) {
  fail('vllm-pd needs CMake and a C++17 compiler: apt-get install cmake g++');
}

dropForeignCache();
const fresh = !existsSync(path.join(buildDir, 'CMakeCache.txt'));
cmake([
  ...['-S', sourceDir, '-B', buildDir],
  ...(fresh && runs('ninja') ? ['-G', 'Ninja'] : []),
  `-DNODE_ADDON_API_DIR=${packageDir('node-addon-api')}`,
  `-DNODE_API_HEADERS_DIR=${packageDir('node-api-headers')}`,
  `-DVLLM_PD_NVCC=${nvcc()}`,
]);
const targets = process.argv.includes('--checks') ? ['--target', 'checks'] : [];
// Without a number, make would start everything at once.
cmake(['--build', buildDir, '--parallel', String(availableParallelism()), ...targets]);
