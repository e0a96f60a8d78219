// Fuzzes the native parsers for as long as one likes: node native/fuzz/run.mjs [--seconds=N] [TARGET …]
//
// With clang++ (or CXX) by libFuzzer, with another compiler by driver.cc. What reaches new code is kept in
// build/fuzz-corpus/TARGET and is where the next run begins; an input that ends the process lies in build/fuzz-found/.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const sourceDir = path.dirname(fileURLToPath(import.meta.url));
const buildRoot = path.join(sourceDir, '..', '..', 'build');
const targets = ['checksums', 'data_reply', 'data_server', 'packed_file', 'peer_pool', 'weights'];

function fail(message) {
  console.error(message);
  process.exit(1);
}

function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit', ...options });
  if (error) fail(`${command} cannot be run: ${error.message}`);
  return status;
}

const flags = process.argv.slice(2).filter((argument) => argument.startsWith('-'));
const named = process.argv.slice(2).filter((argument) => !argument.startsWith('-'));
const seconds = Number(/^--seconds=(\d+)$/.exec(flags[0] ?? '--seconds=600')?.[1]);
const unknown = named.find((name) => !targets.includes(name));
if (!seconds || flags.length > 1) fail(`Expected --seconds=N but received ${flags.join(' ')}.`);
if (unknown) fail(`Expected one of ${targets.join(', ')} but received ${unknown}.`);

const compiler = process.env.CXX ?? 'clang++';
const buildDir = path.join(buildRoot, `fuzz-${path.basename(compiler)}`);
if (run('cmake', ['-S', sourceDir, '-B', buildDir, `-DCMAKE_CXX_COMPILER=${compiler}`]) !== 0)
  fail(`The fuzz targets need a C++17 compiler with sanitizers: apt-get install clang, or set CXX.`);
if (run('cmake', ['--build', buildDir, '--parallel']) !== 0) fail('The fuzz targets could not be compiled.');

const foundDir = path.join(buildRoot, 'fuzz-found');
const failed = (named.length > 0 ? named : targets).filter((target) => {
  const corpus = path.join(buildRoot, 'fuzz-corpus', target);
  const kept = path.join(sourceDir, 'corpus', target);
  for (const folder of [corpus, foundDir]) mkdirSync(folder, { recursive: true });
  if (existsSync(kept)) cpSync(kept, corpus, { recursive: true });
  console.log(`\n${target}, ${seconds} s`);
  const limits = [`-max_total_time=${seconds}`, '-max_len=2048', '-timeout=20', '-rss_limit_mb=2048'];
  const notes = ['-print_final_stats=1', `-artifact_prefix=${foundDir}${path.sep}${target}-`];
  os.setPriority(os.constants.priority.PRIORITY_LOW);
  return run(path.join(buildDir, target), [...limits, ...notes, corpus], { cwd: foundDir }) !== 0;
});
if (failed.length > 0) fail(`\nSomething was found by ${failed.join(', ')}: see above, and ${foundDir}.`);
