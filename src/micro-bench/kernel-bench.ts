// A kernel benchmark from beginning to end: every group in a process of its own, one after the other, the run kept.
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { beginRun, type HostInfo, hostInfo, type RunStart } from '../bench/host.js';
import { keepFiles, runId } from '../bench/results.js';
import { VllmPdError } from '../errors.js';
import { resolveModel } from '../model/resolve-model.js';
import { loadNative } from '../native.js';
import { packageVersion } from '../version.js';
import type { KernelRow } from './kernel-row.js';
import { rowsToCsv, rowsToJsonLines } from './kernel-table.js';
import { createRowGroups } from './row-groups.js';
import { chooseRows, type RowChoice, type RowGroup, rowId } from './row-plan.js';
import type { TrialMessage, TrialOptions } from './trial.js';

export interface KernelBenchOptions {
  /** As typed, for the record. */
  readonly command: string;
  /** A built-in model's name or a folder. */
  readonly model: string;
  readonly choice: RowChoice;
  /** Milliseconds for each row, its limit included; setting up comes on top. */
  readonly timeMs: number;
  /** Null = the run is not kept. */
  readonly resultsDir: string | null;
  readonly signal: AbortSignal;
  readonly onRow?: (numDone: number, numRows: number, next: string) => void;
}

/** What a run was: run.json. Field names are a file format. */
export interface KernelRunInfo {
  readonly id: string;
  readonly bench: 'kernels';
  readonly command: string;
  readonly version: string;
  readonly commit: string | null;
  readonly dirty: boolean;
  readonly host: HostInfo;
  /** Instruction set of the kernels. */
  readonly isa: string;
  readonly model: string;
  readonly filter: string;
  /** Absent in runs from before there was a choice: true. */
  readonly all?: boolean;
  readonly time_ms: number;
  readonly started_at: string;
  readonly ended_at: string;
  readonly duration_s: number;
  /** False when the run was interrupted; the rows until then are kept. */
  readonly complete: boolean;
}

export interface KernelRun {
  readonly run: KernelRunInfo;
  readonly rows: readonly KernelRow[];
}

export interface KernelBenchResult {
  readonly summary: KernelRun;
  /** Folder of the kept run. */
  readonly keptAt: string | null;
}

/** Throws INVALID_ARGUMENT for a filter that no row fits, INTERNAL when a row cannot be measured. */
export async function runKernelBench(options: KernelBenchOptions): Promise<KernelBenchResult> {
  const { choice, signal } = options;
  const start = beginRun();
  const { isa } = loadNative();
  const modelPath = await resolveModel(options.model);
  const groups = chooseRows(await createRowGroups(modelPath), choice);
  if (groups.length === 0) {
    throw new VllmPdError(
      'INVALID_ARGUMENT',
      `Expected --filter to be part of a row's id but no row has '${choice.filter}'.`,
      {
        param: 'filter',
        suggestions: ["Ids are families and names, e.g. 'gemm', 'core/block hash', 'x2' for two threads."],
      },
    );
  }
  const rows: KernelRow[] = [];
  const planned = groups.flatMap(({ family, rows: plans }) => plans.map((plan) => rowId(family, plan)));
  options.onRow?.(0, planned.length, planned[0]!);
  for (const [groupIndex, group] of groups.entries()) {
    if (signal.aborted) break;
    await runGroup(group, { modelPath, choice, groupIndex, timeMs: options.timeMs }, signal, (row) => {
      rows.push(row);
      options.onRow?.(rows.length, planned.length, planned[rows.length] ?? '');
    });
  }
  if (rows.length === 0) throw new VllmPdError('INTERNAL', 'Interrupted.');
  const run = describeRun(options, start, isa, rows.length === planned.length);
  const summary = { run, rows };
  return { summary, keptAt: options.resultsDir === null ? null : keepRun(options.resultsDir, summary) };
}

/** Resolves when all rows are there, or the signal has ended the process. */
function runGroup(
  group: RowGroup,
  trial: TrialOptions,
  signal: AbortSignal,
  onRow: (row: KernelRow) => void,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(new URL('./trial.js', import.meta.url)), [JSON.stringify(trial)]);
    const limit = setTimeout(() => child.kill('SIGKILL'), groupLimitMs(group, trial.timeMs));
    const stop = () => child.kill('SIGKILL');
    signal.addEventListener('abort', stop);
    let numRows = 0;
    let failure: string | null = null;
    child.on('message', (message: TrialMessage) => {
      if (message.type === 'failed') failure = message.message;
      else onRow(message.row);
      if (message.type === 'row') numRows += 1;
    });
    child.once('close', (code, killedBy) => {
      clearTimeout(limit);
      signal.removeEventListener('abort', stop);
      if (signal.aborted || (failure === null && numRows === group.rows.length)) return resolve();
      const row = rowId(group.family, group.rows[Math.min(numRows, group.rows.length - 1)]!);
      const why = failure ?? `its process ended with ${killedBy ?? `exit code ${code}`}`;
      reject(new VllmPdError('INTERNAL', `Could not measure ${row}: ${why}`));
    });
  });
}

/** Beyond the time asked for: setting up, warming up, and rows whose one round takes longer. */
function groupLimitMs({ rows }: RowGroup, timeMs: number): number {
  return 20_000 + rows.length * (10_000 + 4 * timeMs);
}

function describeRun(
  options: KernelBenchOptions,
  { startedAt, code }: RunStart,
  isa: string,
  complete: boolean,
): KernelRunInfo {
  const endedAt = new Date();
  return {
    id: runId(startedAt, 'kernels', 'kernels'),
    bench: 'kernels',
    command: options.command,
    version: packageVersion(),
    ...code,
    host: hostInfo(),
    isa,
    model: options.model,
    ...options.choice,
    time_ms: options.timeMs,
    started_at: startedAt.toISOString(),
    ended_at: endedAt.toISOString(),
    duration_s: Math.round((endedAt.getTime() - startedAt.getTime()) / 100) / 10,
    complete,
  };
}

function keepRun(resultsDir: string, { run, rows }: KernelRun): string {
  return keepFiles(resultsDir, run.id, {
    'run.json': `${JSON.stringify(run, null, 2)}\n`,
    'rows.jsonl': rowsToJsonLines(rows),
    'rows.csv': rowsToCsv(rows),
    'summary.json': `${JSON.stringify({ run, rows }, null, 2)}\n`,
  });
}
