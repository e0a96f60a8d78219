// Runs every compiled *.test.js in a process of its own under a hard time limit, and adds up what uvu counted.
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const testRoot = path.dirname(fileURLToPath(import.meta.url));
const sourceRoot = path.resolve(testRoot, '../../test');
const fileLimitMs = Number(process.env.VLLM_PD_TEST_FILE_LIMIT_MS ?? 240_000);
const concurrency = Number(process.env.VLLM_PD_TEST_CONCURRENCY ?? 2);

interface FileResult {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/** A test that needs something absent prints `skipped: <why>` and still passes in uvu's eyes; it is counted apart. */
const skipMark = /(?<=^[•✘ ]*)skipped: .+$/gm;

function count(output: string, label: string): number {
  const match = new RegExp(`${label}:\\s+(\\d+)`).exec(output);
  return match ? Number(match[1]) : 0;
}

function runFile(file: string): Promise<FileResult> {
  return new Promise((resolve) => {
    const started = Date.now();
    const child = spawn(process.execPath, [file], {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      env: { ...process.env, FORCE_COLOR: '0', NODE_ENV: 'test' },
    });
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
    child.stderr.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      // The whole group: a hanging test may have started servers.
      try {
        process.kill(-child.pid!, 'SIGKILL');
      } catch {
        // gone in between
      }
    }, fileLimitMs);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      const total = count(output, 'Total');
      const passed = count(output, 'Passed');
      const skipped = count(output, 'Skipped') + (output.match(skipMark)?.length ?? 0);
      const ok = code === 0 && !timedOut && total > 0;
      const failed = ok ? 0 : Math.max(1, total - passed - count(output, 'Skipped'));
      const seconds = ((Date.now() - started) / 1000).toFixed(1);
      const name = path.relative(testRoot, file).replace(/\.js$/, '.ts');
      console.log(`${ok ? 'ok  ' : 'FAIL'} ${name} (${passed}/${total}, ${seconds} s)`);
      for (const line of output.match(skipMark) ?? []) console.log(`     ${line}`);
      if (!ok) {
        if (timedOut) console.log(`     ended after its limit of ${fileLimitMs / 1000} s`);
        else console.log(`     exit code ${code ?? signal}`);
        console.log(output.replace(/^/gm, '     '));
      }
      resolve({ passed: passed - (output.match(skipMark)?.length ?? 0), failed, skipped });
    });
  });
}

const filter = process.argv[2];
// By source, since dist/ may still hold what was compiled from files that have moved.
const files = readdirSync(sourceRoot, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.test.ts') && (!filter || file.includes(filter)))
  .sort()
  .map((file) => path.join(testRoot, file.replace(/\.ts$/, '.js')));

const results: FileResult[] = [];
const queue = [...files];
await Promise.all(
  Array.from({ length: concurrency }, async () => {
    for (let file = queue.shift(); file; file = queue.shift()) results.push(await runFile(file));
  }),
);

const sum = (key: keyof FileResult) => results.reduce((total, result) => total + result[key], 0);
console.log(`\n${sum('passed')} passed, ${sum('failed')} failed, ${sum('skipped')} skipped`);
process.exitCode = sum('failed') > 0 || results.length === 0 ? 1 : 0;
