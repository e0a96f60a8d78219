// What the command line takes to start, against a Node process that does nothing.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { RowGroup, Work } from './row-plan.js';

const execute = promisify(execFile);
const entry = fileURLToPath(new URL('../bin.js', import.meta.url));

export function cliGroups(): RowGroup[] {
  const row = {
    name: 'vllm-pd --version',
    threads: 1,
    unit: 'starts/s',
    limit: 'node -e 0',
    asked: { kind: 'added time', atMostMs: 130 },
    prepare: () => ({ subject: start([entry, '--version']), limit: start(['-e', '0']), close() {} }),
  } as const;
  return [{ family: 'cli', rows: [row] }];
}

function start(args: readonly string[]): Work {
  return {
    amount: 1,
    run: async () => {
      await execute(process.execPath, [...args]);
    },
  };
}
