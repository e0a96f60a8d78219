// Makes a folder and those above it, one by one: with `recursive`, Node never returns where the system refuses with ENOENT,
// as below /proc.
import { mkdirSync, statSync } from 'node:fs';
import { mkdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { hasCode } from './errors.js';

/** Does nothing where it is there. Rejects as `mkdir`. */
export async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder);
  } catch (error) {
    if (hasCode(error, 'EEXIST') && (await stat(folder)).isDirectory()) return;
    const parent = path.dirname(folder);
    if (!hasCode(error, 'ENOENT') || parent === folder) throw error;
    await makeFolder(parent);
    await mkdir(folder).catch((again: unknown) => {
      // Somebody else was faster.
      if (!hasCode(again, 'EEXIST')) throw again;
    });
  }
}

/** The same for who cannot wait. */
export function makeFolderSync(folder: string): void {
  try {
    mkdirSync(folder);
  } catch (error) {
    if (hasCode(error, 'EEXIST') && statSync(folder).isDirectory()) return;
    const parent = path.dirname(folder);
    if (!hasCode(error, 'ENOENT') || parent === folder) throw error;
    makeFolderSync(parent);
    try {
      mkdirSync(folder);
    } catch (again) {
      if (!hasCode(again, 'EEXIST')) throw again;
    }
  }
}
