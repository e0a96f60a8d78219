// Loaded into node processes before anything else: what they do to files of one directory fails, or takes long, when told to.
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { controlVariable, directoryVariable } from './failing-disk-control.js';

type FileCall = (file: string, ...rest: unknown[]) => Promise<unknown>;

/** Several files at a time, so that a prompt of many blocks takes longer than a lookup may. */
const slowMs = 80;

const writes = ['writeFile', 'mkdir', 'rename', 'utimes'] as const;
const reads = ['readFile', 'stat', 'open'] as const;

const directory = process.env[directoryVariable];
const control = process.env[controlVariable];
if (directory && control) install(directory, control);

function install(failing: string, controlFile: string): void {
  const calls = fs.promises as unknown as Record<string, FileCall>;
  for (const name of [...writes, ...reads]) {
    const honest = calls[name]!;
    const isWrite = (writes as readonly string[]).includes(name);
    calls[name] = async (file, ...rest) => {
      const failure = String(file).startsWith(failing) ? failureNow(controlFile) : null;
      if (failure === 'slow') await sleep(slowMs);
      else if (failure && isWrite) throw errorOf(failure, name, file);
      return honest(file, ...rest);
    };
  }
  syncBuiltinESMExports();
}

function failureNow(controlFile: string): string | null {
  try {
    return fs.readFileSync(controlFile, 'utf8') || null;
  } catch {
    return null;
  }
}

function errorOf(code: string, syscall: string, path: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: ${syscall} '${path}'`), { code, syscall, path });
}
