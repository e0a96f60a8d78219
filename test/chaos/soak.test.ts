// The soak, in short: what is disturbed ends right, and what would be wrong is noticed.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { isClean, soak } from '../../src/chaos/soak.js';
import { createModelFolder } from '../../src/model/default-model.js';
import { allGone, descendantsOf } from '../processes.js';
import { engine, options, withTransfer } from './soak-options.js';

const settings = [
  ['bi', 'query', 'shm'],
  ['bi', 'ticket', 'tcp'],
] as const;

for (const [mode, lookup, agent] of settings) {
  test(`turns with a fault each end with the right tokens and whole pools (${mode}, ${lookup}, ${agent})`, async () => {
    const report = await soak(
      options({
        engine: withTransfer({ mode, lookup, agent, decoderKvBlocksTtlMs: 4000 }),
        mode,
        lookup,
        seed: 3,
      }),
    );
    assert.equal([report.wrong, report.lost, report.leaks], [[], [], []]);
    assert.ok(report.complete);
    assert.ok(report.num_faults >= 6, `only ${report.num_faults} faults struck`);
    assert.ok(await allGone(descendantsOf(process.pid)), 'a process is left');
  });
}

test('answers that differ from the undisturbed ones are found', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'vllm-pd-soak-'));
  try {
    const other = path.join(folder, 'model');
    await createModelFolder(other, { arch: 'tiny', seed: 99 });
    const report = await soak(
      options({
        engine: withTransfer({}),
        referenceEngine: { ...engine, model: other },
        kinds: [],
        numTurns: 4,
      }),
    );
    assert.not.ok(isClean(report));
    assert.ok(report.wrong.length >= 4);
    assert.equal(report.faults, {});
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('an interrupted soak ends early, says so, and leaves no process', async () => {
  const controller = new AbortController();
  const report = await soak(
    options({
      engine: withTransfer({}),
      numTurns: 1000,
      signal: controller.signal,
      onTurn: (numDone) => numDone === 4 && controller.abort(),
    }),
  );
  assert.not.ok(report.complete);
  assert.ok(report.num_turns < 20);
  assert.ok(await allGone(descendantsOf(process.pid)), 'a process is left');
});

test.run();
