// The list of defences names what is there: each text once in its file, and tests that exist. run.mjs takes them away.
// Who moves or rewords a defence changes its entry in defences/ as well.
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { allDefences } from './all-defences.js';

const root = new URL('../../../', import.meta.url);
const at = (file: string) => new URL(file, root);

test('every defence stands in its file, once', () => {
  for (const { against, file, text, instead } of allDefences) {
    const parts = readFileSync(at(file), 'utf8').split(text);
    assert.is(
      parts.length - 1,
      1,
      `against ${against}: \`${text}\` in ${file}; has it moved? Then change test/teeth/defences/`,
    );
    assert.is.not(instead, text, against);
  }
});

test('every defence has tests that exist, and a name of its own', () => {
  for (const { against, tests } of allDefences) {
    assert.ok(tests.length > 0, against);
    for (const file of tests) assert.ok(existsSync(at(file)), `against ${against}: ${file}`);
  }
  assert.is(new Set(allDefences.map(({ against }) => against)).size, allDefences.length);
});

test.run();
