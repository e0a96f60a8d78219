// Kept runs: one folder each below results/, written whole or not at all, and read back.
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { messageOf, VllmPdError } from '../errors.js';
import { makeFolderSync } from '../make-folder.js';
import { turnsToCsv, turnsToJsonLines } from './export-turns.js';
import type { MetricsChoice } from './metrics-choice.js';
import type { RunInfo } from './run-info.js';
import { type RunSummary, summarizeRun } from './summary.js';
import type { TurnRecord } from './turn-record.js';

export interface KeptRun {
  /** Absolute path of its folder. */
  readonly folder: string;
  readonly run: RunInfo;
  readonly turns: readonly TurnRecord[];
  /** Made again from the turns. */
  readonly summary: RunSummary;
}

/** `2026-01-31T12-00-00-multi-turn-smoke`: sorts by time. A workload named after the benchmark says it already. */
export function runId(startedAt: Date, bench: string, workload: string): string {
  const time = startedAt.toISOString().slice(0, 19).replaceAll(':', '-');
  const parts = workload.startsWith(bench) ? [time, workload] : [time, bench, workload];
  return parts.join('-').replace(/[^A-Za-z0-9._-]/g, '_');
}

/** Throws INVALID_ARGUMENT when nothing could be kept there: before a run, not after minutes of it. Leaves no trace. */
export function checkResultsDir(resultsDir: string): void {
  keeping(resultsDir, () => {
    let existing = path.resolve(resultsDir);
    while (!statSync(existing, { throwIfNoEntry: false })) existing = path.dirname(existing);
    rmdirSync(mkdtempSync(path.join(existing, '.draft-')));
  });
}

/** Writes run.json, turns.jsonl, turns.csv, summary.json and chart.svg; returns the folder. A taken name gets a number. */
export async function keepRun(
  resultsDir: string,
  summary: RunSummary,
  turns: readonly TurnRecord[],
): Promise<string> {
  // Reading a run needs no chart library, and loading one takes a while.
  const { renderChart } = await import('./chart.js');
  return keepFiles(resultsDir, summary.run.id, {
    'run.json': json(summary.run),
    'turns.jsonl': turnsToJsonLines(turns),
    'turns.csv': turnsToCsv(turns),
    'summary.json': json(summary),
    'chart.svg': renderChart(summary, turns),
  });
}

/** Writes a run's files by their names; returns the folder. */
export function keepFiles(resultsDir: string, id: string, files: Readonly<Record<string, string>>): string {
  return keeping(resultsDir, () => {
    makeFolderSync(path.resolve(resultsDir));
    // Written aside and renamed: whoever looks into results/ never sees half a run.
    const draft = mkdtempSync(path.join(resultsDir, '.draft-'));
    try {
      for (const [name, text] of Object.entries(files)) writeFileSync(path.join(draft, name), text);
      return moveToFreeName(draft, path.resolve(resultsDir, id));
    } catch (error) {
      rmSync(draft, { recursive: true, force: true });
      throw error;
    }
  });
}

function keeping<T>(resultsDir: string, write: () => T): T {
  try {
    return write();
  } catch (cause) {
    throw new VllmPdError('INVALID_ARGUMENT', `Cannot keep a run in ${resultsDir}: ${messageOf(cause)}.`, {
      param: 'results-dir',
      cause,
    });
  }
}

/**
 * A folder, the name of one below `resultsDir`, or `latest`. NOT_FOUND or BAD_FILE when it is no kept run. `metrics`: to
 * report instead of what the run was started with.
 */
export function readRun(nameOrFolder: string, resultsDir: string, metrics: MetricsChoice = {}): KeptRun {
  const folder = findRun(nameOrFolder, resultsDir);
  const kept = parse(folder, 'run.json', (text) => JSON.parse(text) as RunInfo);
  checkBench(folder, kept?.bench);
  const run = { ...kept, ...metrics };
  const turns = parse(folder, 'turns.jsonl', (text) =>
    text
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as TurnRecord),
  );
  if (
    !Array.isArray(run?.workload?.modes) ||
    turns.some((turn) => typeof turn?.num_prompt_tokens !== 'number')
  ) {
    throw new VllmPdError(
      'BAD_FILE',
      `Expected ${folder} to be a kept run, but its files have other fields.`,
    );
  }
  return { folder, run, turns, summary: summarizeRun(run, turns) };
}

function checkBench(folder: string, bench: string | undefined): void {
  if (bench !== 'chaos' && bench !== 'kernels') return;
  const message = `Expected a run with conversations, but ${folder} is one of \`vllm-pd bench ${bench}\`, which has no turns to compare or export.`;
  throw new VllmPdError('BAD_FILE', message, {
    suggestions: ['Its summary.json has what came out, its run.json everything.'],
  });
}

/** Names of the kept runs below `resultsDir`, oldest first; those of other benchmarks than conversations are left out. */
export function listRuns(resultsDir: string): string[] {
  try {
    return readdirSync(resultsDir, { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && !entry.name.startsWith('.'))
      .map((entry) => entry.name)
      .filter((name) => isFile(path.join(resultsDir, name, 'turns.jsonl')))
      .sort();
  } catch {
    return [];
  }
}

function findRun(nameOrFolder: string, resultsDir: string): string {
  const latest = listRuns(resultsDir).at(-1);
  if (nameOrFolder === 'latest' && latest) return path.resolve(resultsDir, latest);
  const candidates = [path.resolve(nameOrFolder), path.resolve(resultsDir, nameOrFolder)];
  const found = candidates.find((folder) => isFile(path.join(folder, 'run.json')));
  if (found) return found;
  const wanted = nameOrFolder === 'latest' ? 'kept run' : `kept run '${nameOrFolder}'`;
  throw new VllmPdError('NOT_FOUND', `There is no ${wanted} in ${path.resolve(resultsDir)}.`, {
    suggestions: [latest ? `The latest one is ${latest}.` : '`vllm-pd bench multi-turn` makes one.'],
  });
}

function parse<T>(folder: string, name: string, read: (text: string) => T): T {
  const file = path.join(folder, name);
  try {
    return read(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new VllmPdError('BAD_FILE', `Cannot read ${file}: ${messageOf(cause)}.`, { cause });
  }
}

function moveToFreeName(draft: string, wanted: string): string {
  for (let i = 1; ; i++) {
    const folder = i === 1 ? wanted : `${wanted}-${i}`;
    if (statSync(folder, { throwIfNoEntry: false })) continue;
    renameSync(draft, folder);
    return folder;
  }
}

function isFile(file: string): boolean {
  try {
    return statSync(file, { throwIfNoEntry: false })?.isFile() ?? false;
  } catch {
    // What is above it is no folder.
    return false;
  }
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
