// ONNX Runtime's builds report what they run to Microsoft, and keep an id of the machine, unless they are told not to.
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { nativeIsMissing } from './greedy-answers.js';

const script = fileURLToPath(new URL('./onnx-telemetry-process.js', import.meta.url));
const main = fileURLToPath(new URL('../../src/bin.js', import.meta.url));

/** Runs a process whose home and temporary files lie in a folder of their own; returns the files that it left there. */
async function filesLeftBy(args: readonly string[]): Promise<readonly string[]> {
  const folder = mkdtempSync(path.join(tmpdir(), 'onnx-telemetry-'));
  try {
    const [home, temporary] = ['home', 'tmp'].map((name) => path.join(folder, name));
    for (const made of [home!, temporary!]) mkdirSync(made);
    const { ORT_DISABLE_TELEMETRY: _, XDG_CACHE_HOME: __, ...environment } = process.env;
    const env = { ...environment, HOME: home, TMPDIR: temporary };
    await promisify(execFile)(process.execPath, [...args], { env, timeout: 60_000 });
    const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) =>
      entry.isFile(),
    );
    return files.map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('a process that runs an exported decoder leaves its model behind and nothing else', async () => {
  if (nativeIsMissing()) return;
  const files = await filesLeftBy([script]);
  assert.ok(files.some((file) => file.endsWith('model.onnx')));
  assert.equal(
    files.filter((file) => !file.startsWith('home/.cache/vllm-pd/')),
    [],
  );
});

test('`vllm-pd info`, which says whether ONNX Runtime works, leaves nothing behind', async () => {
  assert.equal(await filesLeftBy([main, 'info', '--json']), []);
});

test.run();
