// Kept runs: written whole, read back the same, and told apart from other folders.
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { checkResultsDir, keepRun, listRuns, readRun, runId } from '../../src/bench/results.js';
import { summarizeRun } from '../../src/bench/summary.js';
import type { VllmPdError } from '../../src/errors.js';
import { createRunInfo, createTurn } from './helpers.js';

const test = suite<{ folder: string }>('results');
test.before.each((context) => {
  context.folder = mkdtempSync(path.join(tmpdir(), 'vllm-pd-results-'));
});
test.after.each(({ folder }) => rmSync(folder, { recursive: true }));

const turns = [
  createTurn({ mode: 'uni', ttft_ms: 1.5 }),
  createTurn({ mode: 'bi', error: 'It said "no",\nloudly.' }),
];
const run = createRunInfo();
const summary = summarizeRun(run, turns);

async function codeOf(action: () => unknown): Promise<string> {
  try {
    await action();
  } catch (error) {
    return (error as VllmPdError).code;
  }
  return 'nothing thrown';
}

test('a run comes back as it was kept, by folder, by name and as the latest', async ({ folder }) => {
  const kept = await keepRun(folder, summary, turns);
  assert.is(path.basename(kept), run.id);
  assert.equal(readdirSync(kept).sort(), [
    'chart.svg',
    'run.json',
    'summary.json',
    'turns.csv',
    'turns.jsonl',
  ]);
  for (const name of [kept, run.id, 'latest']) {
    const read = readRun(name, folder);
    assert.equal(read.turns, turns);
    assert.equal(read.run, run);
    assert.equal(read.summary, summary);
    assert.is(read.folder, kept);
  }
  assert.equal(JSON.parse(readFileSync(path.join(kept, 'summary.json'), 'utf8')), summary);
});

test('a place where no run can be kept is refused before a run, and the question leaves no trace', async ({
  folder,
}) => {
  checkResultsDir(path.join(folder, 'not/yet/there'));
  assert.equal(readdirSync(folder), []);
  const file = path.join(folder, 'file');
  writeFileSync(file, '');
  for (const wrong of [file, path.join(file, 'below'), '/proc/results']) {
    assert.is(await codeOf(() => checkResultsDir(wrong)), 'INVALID_ARGUMENT');
  }
});

test('the CSV has the columns that the turns have, and quotes what needs it', async ({ folder }) => {
  const kept = await keepRun(folder, summary, turns);
  const csv = readFileSync(path.join(kept, 'turns.csv'), 'utf8');
  assert.equal(csv.split('\n')[0]!.split(','), [...Object.keys(turns[0]!), 'pull_regret_ms']);
  assert.match(csv, '"It said ""no"",\nloudly."');
});

test('a name that is taken gets a number; nothing is overwritten', async ({ folder }) => {
  const first = await keepRun(folder, summary, turns);
  const second = await keepRun(folder, summary, []);
  assert.is(second, `${first}-2`);
  assert.is(readRun(first, folder).turns.length, 2);
  assert.equal(listRuns(folder), [run.id, `${run.id}-2`]);
});

test('the latest is the newest by name, and drafts are never seen', async ({ folder }) => {
  await keepRun(folder, { ...summary, run: { ...run, id: '2026-03-01T00-00-00-x' } }, turns);
  await keepRun(folder, { ...summary, run: { ...run, id: '2026-02-01T00-00-00-x' } }, turns);
  mkdirSync(path.join(folder, '.draft-zzz'));
  writeFileSync(path.join(folder, '.draft-zzz', 'run.json'), '{}');
  mkdirSync(path.join(folder, 'unrelated'));
  assert.match(readRun('latest', folder).folder, '2026-03-01');
  assert.is(listRuns(folder).length, 2);
});

test('a results folder that cannot be written leaves nothing behind', async ({ folder }) => {
  const file = path.join(folder, 'file');
  writeFileSync(file, '');
  assert.is(await codeOf(() => keepRun(path.join(file, 'below'), summary, turns)), 'INVALID_ARGUMENT');
  assert.equal(readdirSync(folder), ['file']);
  assert.is(existsSync(path.join(file, 'below')), false);
});

test('what is no kept run is NOT_FOUND or BAD_FILE', async ({ folder }) => {
  assert.is(await codeOf(() => readRun('latest', folder)), 'NOT_FOUND');
  assert.is(await codeOf(() => readRun('gone', folder)), 'NOT_FOUND');
  const kept = await keepRun(folder, summary, turns);
  writeFileSync(path.join(kept, 'turns.jsonl'), '{"mode":');
  assert.is(await codeOf(() => readRun(kept, folder)), 'BAD_FILE');
  writeFileSync(path.join(kept, 'turns.jsonl'), '{"mode":"uni"}\n');
  assert.is(await codeOf(() => readRun(kept, folder)), 'BAD_FILE');
  writeFileSync(path.join(kept, 'turns.jsonl'), '');
  writeFileSync(path.join(kept, 'run.json'), '[]');
  assert.is(await codeOf(() => readRun(kept, folder)), 'BAD_FILE');
  rmSync(path.join(kept, 'turns.jsonl'));
  assert.is(await codeOf(() => readRun(kept, folder)), 'BAD_FILE');
});

test('names of runs sort by time and say what was run', () => {
  const at = new Date('2026-01-31T12:34:56.789Z');
  assert.is(runId(at, 'multi-turn', 'multi-turn'), '2026-01-31T12-34-56-multi-turn');
  assert.is(runId(at, 'multi-turn', 'my chat/s'), '2026-01-31T12-34-56-multi-turn-my_chat_s');
});

test.run();
