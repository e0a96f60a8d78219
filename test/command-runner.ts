// Runs the built command as a process of its own, as a user would.
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';

const entry = fileURLToPath(new URL('../src/bin.js', import.meta.url));

export interface CommandResult {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunningCommand {
  readonly child: ChildProcessByStdio<null, Readable, Readable>;
  readonly pid: number;
  /** Resolves with the first line of stdout; rejects when the command ends before it. */
  readonly firstLine: Promise<string>;
  readonly result: Promise<CommandResult>;
  /** Resolves when stderr has this text; rejects when the command ends without it. */
  stderrHas(text: string): Promise<void>;
  /** To its whole process group, as Ctrl-C on a terminal. */
  interrupt(): void;
}

/** In a process group of its own; killed after `limitMs`, so that no test hangs. */
export function startCommand(
  args: readonly string[],
  limitMs = 60_000,
  nodeArgs: readonly string[] = [],
): RunningCommand {
  const child = spawn(process.execPath, [...nodeArgs, entry, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs);
  let stdout = '';
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString('utf8');
  });
  const firstLine = new Promise<string>((resolve, reject) => {
    child.stdout.on('data', (chunk: Buffer) => {
      stdout += chunk.toString('utf8');
      if (stdout.includes('\n')) resolve(stdout.slice(0, stdout.indexOf('\n')));
    });
    child.once('close', () => reject(new Error(`ended without a line on stdout; stderr: ${stderr}`)));
  });
  firstLine.catch(() => {});
  const result = once(child, 'close').then(([exitCode, signal]) => {
    clearTimeout(timer);
    return { exitCode, signal, stdout, stderr } as CommandResult;
  });
  const pid = child.pid!;
  const stderrHas = (text: string) =>
    new Promise<void>((resolve, reject) => {
      const look = () => {
        if (stderr.includes(text)) resolve();
      };
      look();
      child.stderr.on('data', look);
      child.once('close', () => reject(new Error(`ended without '${text}' on stderr: ${stderr}`)));
    });
  return { child, pid, firstLine, result, stderrHas, interrupt: () => process.kill(-pid, 'SIGINT') };
}

export function runCommand(
  args: readonly string[],
  limitMs?: number,
  nodeArgs?: readonly string[],
): Promise<CommandResult> {
  return startCommand(args, limitMs, nodeArgs).result;
}
