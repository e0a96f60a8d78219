// Threads of a forward pass have a processor each where they are as many as there are processors, and are left alone otherwise.
import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadNative } from '../../src/native.js';
import { createRandomModel } from './random-model.js';

/** Processors that this process's threads may use: of each thread one list, as `0-1` or `1`. */
function allowedProcessors(): string[] {
  return readdirSync('/proc/self/task').flatMap((id) => {
    try {
      const status = readFileSync(`/proc/self/task/${id}/status`, 'utf8');
      return /^Cpus_allowed_list:\s+(.+)$/m.exec(status)![1]!;
    } catch {
      return []; // ended in between
    }
  });
}

async function processorsOfOne(numThreads: number): Promise<string[]> {
  const { config, tensors } = createRandomModel({}, 'F32');
  const model = await loadNative().loadModel(config, tensors, numThreads);
  try {
    return allowedProcessors().filter((list) => /^\d+$/.test(list));
  } finally {
    model.close();
  }
}

const numProcessors = availableParallelism();

// First, since threads of a model that was closed may take a moment to end.
test('fewer threads run where the system puts them', async () => {
  if (process.platform !== 'linux') return console.log('skipped: threads are pinned on Linux only');
  if (numProcessors < 2) return console.log('skipped: there is one processor');
  assert.equal(await processorsOfOne(numProcessors - 1), []);
});

test('as many threads as processors are pinned, each to one of its own', async () => {
  if (process.platform !== 'linux') return console.log('skipped: threads are pinned on Linux only');
  if (numProcessors < 2) return console.log('skipped: there is one processor');
  const pinned = await processorsOfOne(numProcessors);
  assert.is(pinned.length, numProcessors);
  assert.is(new Set(pinned).size, numProcessors);
});

test.run();
