// Folders of stores, models and results: made with all those above them, or refused at once.
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { makeFolder, makeFolderSync } from '../src/make-folder.js';

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'made',
    (error: NodeJS.ErrnoException) => error.code ?? String(error),
  );
}

test('folders are made with those above them, by several at once, and again', async () => {
  const root = await mkdtemp(path.join(os.tmpdir(), 'vllm-pd-folders-'));
  try {
    const folder = path.join(root, 'a', 'b', 'c');
    await Promise.all([0, 1, 2].map(() => makeFolder(folder)));
    await makeFolder(folder);
    makeFolderSync(folder);
    makeFolderSync(path.join(root, 'd', 'e'));
    assert.ok((await stat(folder)).isDirectory());
    assert.ok((await stat(path.join(root, 'd', 'e'))).isDirectory());
    const file = path.join(root, 'file');
    await writeFile(file, '');
    assert.is(await codeOf(makeFolder(file)), 'EEXIST');
    assert.is(await codeOf(makeFolder(path.join(file, 'below'))), 'ENOTDIR');
  } finally {
    await rm(root, { recursive: true });
  }
});

test('where the system makes no folders it is said, not waited for', async () => {
  const refused = /^(ENOENT|EACCES|EPERM|EROFS)$/;
  assert.match(await codeOf(makeFolder('/proc/vllm-pd/store')), refused);
  assert.match(await codeOf((async () => makeFolderSync('/proc/vllm-pd/results'))()), refused);
});

test.run();
