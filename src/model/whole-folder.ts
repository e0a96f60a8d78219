// Writes a folder aside and moves it into place: whoever looks sees all of it or nothing.
import { chmod, mkdtemp, readdir, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { hasCode, messageOf, VllmPdError } from '../errors.js';
import { makeFolder } from '../make-folder.js';

const temporaryMark = '.tmp-';
const abandonedAfterMs = 3_600_000;

/**
 * Makes `folder` out of what `write` puts into the folder it is given. Returns false, and changes nothing, if a folder
 * with content is there already (also if another process was faster). Throws INVALID_ARGUMENT if it cannot be written.
 */
export async function writeWholeFolder(
  folder: string,
  write: (folder: string) => Promise<void>,
): Promise<boolean> {
  const existing = await readdir(folder).catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return [];
    throw cannotWrite(folder, error);
  });
  if (existing.length > 0) return false;
  await removeAbandoned(folder);
  let temporary: string | undefined;
  try {
    await makeFolder(path.dirname(folder));
    temporary = await mkdtemp(folder + temporaryMark);
    await chmod(temporary, 0o755);
    await write(temporary);
    await rename(temporary, folder);
    return true;
  } catch (error) {
    if (temporary) await rm(temporary, { recursive: true, force: true });
    if (hasCode(error, 'ENOTEMPTY') || hasCode(error, 'EEXIST')) return false;
    throw error instanceof VllmPdError ? error : cannotWrite(folder, error);
  }
}

function cannotWrite(folder: string, cause: unknown): VllmPdError {
  const message = `Cannot write a model folder at ${folder}: ${messageOf(cause)}`;
  return new VllmPdError('INVALID_ARGUMENT', message, { cause });
}

/** A process that was killed while writing leaves its temporary folder behind. */
async function removeAbandoned(folder: string): Promise<void> {
  const parent = path.dirname(folder);
  const prefix = path.basename(folder) + temporaryMark;
  for (const name of await readdir(parent).catch(() => [])) {
    if (!name.startsWith(prefix)) continue;
    const found = await stat(path.join(parent, name)).catch(() => null);
    if (found && Date.now() - found.mtimeMs > abandonedAfterMs) {
      await rm(path.join(parent, name), { recursive: true, force: true });
    }
  }
}
