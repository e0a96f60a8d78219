// Packs this checkout, as it is built, for a machine with a GPU but without Node and npm: one folder with everything that
// run.mjs needs, the node binary included.
//
//   node test/gpu/pack.mjs FOLDER      then e.g. tar -C FOLDER -cJf vllm-pd.tar.xz .
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { commitFile, commitOf } from './gpu-host.mjs';

/** Not needed on a GPU, and large: ONNX Runtime's libraries for all platforms, and the pictures of runs. */
const leftOut = new Set(['onnxruntime-node', 'echarts']);
/** What the tests run on. */
const alsoNeeded = ['uvu'];
const parts = [
  ...['package.json', 'oclif.manifest.json', 'LICENSE', 'dist', 'workloads', 'test/gpu'],
  ...['build/vllm_pd.node', 'build/cuda_check', 'build/cuda_figures', 'build/libcuda_emulated.so'],
];

const root = fileURLToPath(new URL('../..', import.meta.url));
const [folder] = process.argv.slice(2);
if (!folder) {
  console.error('Expected a folder to pack into: node test/gpu/pack.mjs FOLDER');
  process.exit(2);
}
const missing = parts.filter((part) => !existsSync(path.join(root, part)));
if (missing.length > 0) {
  console.error(`Expected a built checkout, but ${missing.join(', ')} are missing (test/gpu/README.md).`);
  process.exit(1);
}

/** Where Node finds package `name` from `from`, both as places below node_modules in the lock file. */
function placeOf(packages, name, from) {
  for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf('node_modules/') - 1))) {
    const place = path.posix.join(at, 'node_modules', name);
    if (packages[place]) return place;
    if (at === '') return null;
  }
}

/** All packages that run when this one does. */
function neededPackages() {
  const { packages } = JSON.parse(readFileSync(path.join(root, 'package-lock.json'), 'utf8'));
  const needed = new Set();
  const add = (names, from) => {
    for (const name of names) {
      const place = leftOut.has(name) ? null : placeOf(packages, name, from);
      if (!place || needed.has(place)) continue;
      if (existsSync(path.join(root, place))) needed.add(place);
      else if (!packages[place].optional) throw new Error(`${place} is not installed: npm ci`);
      add(Object.keys(packages[place].dependencies ?? {}), place);
    }
  };
  add([...Object.keys(packages[''].dependencies), ...alsoNeeded], '');
  return [...needed];
}

mkdirSync(folder, { recursive: true });
for (const part of [...parts, ...neededPackages()])
  cpSync(path.join(root, part), path.join(folder, part), { recursive: true, dereference: true });
// The addon is looked for in the folder that has both package.json and native/.
mkdirSync(path.join(folder, 'native'), { recursive: true });
mkdirSync(path.join(folder, 'bin'), { recursive: true });
cpSync(process.execPath, path.join(folder, 'bin', 'node'), { dereference: true });
chmodSync(path.join(folder, 'bin', 'node'), 0o755);
writeFileSync(path.join(folder, commitFile), `${commitOf(root) ?? 'unknown'}\n`);
console.log(`packed into ${folder}: there, bin/node test/gpu/run.mjs`);
