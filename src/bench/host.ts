// The machine and the code that a run was measured with.
import { execFileSync } from 'node:child_process';
import { realpathSync } from 'node:fs';
import os from 'node:os';
import { packageRoot } from '../version.js';

export interface HostInfo {
  readonly cpu: string;
  /** Logical cores that this process may use. */
  readonly cores: number;
  readonly memory_bytes: number;
  readonly os: string;
  readonly node: string;
}

export function hostInfo(): HostInfo {
  return {
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    memory_bytes: os.totalmem(),
    os: `${os.type()} ${os.release()} ${os.arch()}`,
    node: process.version,
  };
}

export interface CodeVersion {
  readonly commit: string | null;
  /** The checkout has changes that are not in `commit`. */
  readonly dirty: boolean;
}

/** When a run began and which code it runs: what is committed while it runs is not what it measures. */
export interface RunStart {
  readonly startedAt: Date;
  readonly code: CodeVersion;
}

export function beginRun(): RunStart {
  return { startedAt: new Date(), code: gitCommit() };
}

/** The package's own commit; null when it is installed somewhere else than at the top of its checkout. */
function gitCommit(): CodeVersion {
  try {
    const top = git('rev-parse', '--show-toplevel');
    if (realpathSync(top) !== realpathSync(packageRoot)) return { commit: null, dirty: false };
    return {
      commit: git('rev-parse', 'HEAD'),
      dirty: git('status', '--porcelain', '--', 'src', 'native') !== '',
    };
  } catch {
    return { commit: null, dirty: false };
  }
}

function git(...args: string[]): string {
  return execFileSync('git', args, {
    cwd: packageRoot,
    encoding: 'utf8',
    timeout: 5000,
    stdio: ['ignore', 'pipe', 'ignore'],
  }).trim();
}
