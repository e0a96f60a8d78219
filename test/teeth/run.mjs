// Takes away one defence after the other in a copy of the tree, and expects that a test fails. After `npm run build`.
//
//   node test/teeth/run.mjs                    all of them: about half an hour on two cores
//   node test/teeth/run.mjs --filter lease     those whose words or file have it; may be given several times
//   node test/teeth/run.mjs --list
import { spawn } from 'node:child_process';
import {
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import ts from 'typescript';
import { allDefences } from '../../dist/test/teeth/all-defences.js';

const root = fileURLToPath(new URL('../../', import.meta.url));
const testLimitMs = 120_000;
const lastWordsMs = 3000;
const buildLimitMs = 900_000;

const { values: flags } = parseArgs({
  options: { filter: { type: 'string', multiple: true }, list: { type: 'boolean' } },
});
const chosen = allDefences.filter(
  ({ against, file }) => !flags.filter || flags.filter.some((word) => `${against} ${file}`.includes(word)),
);

if (flags.list) for (const { against, file } of chosen) console.log(`${against}  (${file})`);
else process.exitCode = await tryAll(chosen);

async function tryAll(defences) {
  const tree = copyTree(defences.some(isNative));
  let numUnnoticed = 0;
  try {
    if (defences.some(isNative)) await build(tree);
    await passAsTheyAre(tree, defences);
    for (const defence of defences) {
      const failures = await tryWithout(tree, defence);
      if (failures.length === 0) numUnnoticed += 1;
      const verdict =
        failures.length > 0 ? failures.join('; ') : `NOT NOTICED by ${defence.tests.join(', ')}`;
      console.log(`${failures.length > 0 ? '✓' : '✗'} ${defence.against}: ${verdict}`);
    }
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
  console.log(
    `\n${defences.length - numUnnoticed} of ${defences.length} defences are missed when they are gone.`,
  );
  return numUnnoticed > 0 ? 1 : 0;
}

/** What tests need, in a place of its own. The addon is built there only if it is to be changed. */
function copyTree(withNative) {
  const tree = mkdtempSync(path.join(tmpdir(), 'vllm-pd-teeth-'));
  const copied = ['dist', 'src', 'test', 'commands', 'package.json', 'oclif.manifest.json', 'tsconfig.json'];
  if (withNative) copied.push('native');
  for (const name of copied) cpSync(path.join(root, name), path.join(tree, name), { recursive: true });
  const docs = ['API.md', 'OPERATIONS.md', 'SECURITY.md'];
  const linked = ['node_modules', 'workloads', ...docs, ...(withNative ? [] : ['build', 'native'])];
  for (const name of linked) symlinkSync(path.join(root, name), path.join(tree, name));
  return tree;
}

/** A test that fails with every defence in place would notice nothing, and seem to notice everything. */
async function passAsTheyAre(tree, defences) {
  for (const test of new Set(defences.flatMap(({ tests }) => tests))) {
    const { code, output } = await runTest(tree, test);
    if (code !== 0) throw new Error(`${test} fails as it is:\n${output.slice(-2000)}`);
  }
}

/** What failed without it, in words; empty when nothing did. */
async function tryWithout(tree, { file, text, instead, tests }) {
  // Of the copy: the tree may be worked on meanwhile.
  const source = readFileSync(path.join(tree, file), 'utf8');
  if (!source.includes(text)) throw new Error(`There is no \`${text}\` in ${file}.`);
  const without = source.replace(text, () => instead);
  await put(tree, file, without);
  try {
    for (const test of tests) {
      const { code, output } = await runTest(tree, test);
      if (code !== 0)
        return failedTests(output) ?? [`${test} ${code === null ? 'hangs' : 'ends with an error'}`];
    }
    return [];
  } finally {
    await put(tree, file, source);
  }
}

async function runTest(tree, test) {
  const result = await run(tree, [path.join('dist', test.replace(/\.ts$/, '.js'))], testLimitMs);
  endAllIn(tree);
  return result;
}

async function build(tree) {
  const { code, output } = await run(tree, ['native/build.mjs'], buildLimitMs);
  if (code !== 0) throw new Error(`The addon does not build:\n${output.slice(-2000)}`);
}

/** Nodes lead process groups of their own, and without a defence they may outlive their test. Nothing else works in the copy. */
function endAllIn(tree) {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (readlinkSync(`/proc/${pid}/cwd`) === tree) process.kill(Number(pid), 'SIGKILL');
    } catch {
      // Somebody else's, or gone by now.
    }
  }
}

async function put(tree, file, source) {
  writeFileSync(path.join(tree, file), source);
  if (isNative({ file })) {
    await build(tree);
    return;
  }
  const { outputText, diagnostics } = ts.transpileModule(source, {
    fileName: file,
    reportDiagnostics: true,
    compilerOptions: {
      module: ts.ModuleKind.ESNext,
      target: ts.ScriptTarget.ES2023,
      verbatimModuleSyntax: true,
    },
  });
  if (diagnostics.length > 0) throw new Error(`${file} is no TypeScript without its defence.`);
  writeFileSync(path.join(tree, 'dist', file.replace(/\.ts$/, '.js')), outputText);
}

function isNative({ file }) {
  return file.startsWith('native/');
}

/** Exit code, null when it had to be ended, and all that was said. Its process group ends with it. */
function run(cwd, args, limitMs) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, {
      cwd,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, FORCE_COLOR: '0', NODE_ENV: 'test' },
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk) => {
        output += chunk;
        // A test that failed may not have closed what it opened; its verdict is there.
        if (output.includes('Duration:')) setTimeout(end, lastWordsMs).unref();
      });
    }
    const end = () => {
      try {
        process.kill(-child.pid, 'SIGKILL');
      } catch {
        // All of them have ended.
      }
    };
    const timer = setTimeout(end, limitMs);
    child.on('close', (code) => {
      clearTimeout(timer);
      end();
      resolve({ code, output });
    });
  });
}

/** Null when none says so. */
function failedTests(output) {
  const names = [...output.matchAll(/FAIL\s+(?:\S.*?\s)?"(.+)"/g)].map(([, name]) => `“${name}”`);
  return names.length > 0 ? names : null;
}
