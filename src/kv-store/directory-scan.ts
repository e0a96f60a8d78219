// Looks through a store's directory: which blocks lie there, and what writers left behind that died.
import { readdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import type { BlockHash } from '../wire.js';

export interface FoundBlock {
  readonly hash: BlockHash;
  readonly numBytes: number;
  readonly writtenAtMs: number;
  readonly usedAtMs: number;
}

/** No write takes this long. */
const staleAfterMs = 3_600_000;

/** The one used least recently first. Files that vanish meanwhile are left out. */
export async function scanBlocks(root: string, isCancelled: () => boolean): Promise<FoundBlock[]> {
  const found: FoundBlock[] = [];
  const folders = (await readdir(root)).filter((name) => /^[0-9a-f]{2}$/.test(name));
  for (const folder of folders) {
    if (isCancelled()) break;
    const names = await readdir(path.join(root, folder)).catch(() => []);
    for (const name of names) {
      const hash = /^([0-9a-f]{64})\.kv$/.exec(name)?.[1];
      const file = hash && (await stat(path.join(root, folder, name)).catch(() => null));
      if (!hash || !file) continue;
      const { size, mtimeMs, atimeMs } = file;
      found.push({ hash, numBytes: size, writtenAtMs: mtimeMs, usedAtMs: Math.max(atimeMs, mtimeMs) });
    }
  }
  return found.sort((a, b) => a.usedAtMs - b.usedAtMs);
}

export async function removeStaleTemporaries(folder: string, nowMs: number): Promise<void> {
  for (const name of await readdir(folder)) {
    const file = path.join(folder, name);
    const found = await stat(file).catch(() => null);
    if (found && nowMs - found.mtimeMs > staleAfterMs) await rm(file, { force: true });
  }
}
