// What a process holds, seen from outside: pools that it maps and leaves, files, and growth that is none.
import { closeSync, openSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { footprintOf, growthOf } from '../../src/chaos/footprint.js';
import { loadNative } from '../../src/native.js';
import { layout } from '../kv-transfer/transfer-node.js';

test('pools and files are counted as they come and go', () => {
  const before = footprintOf(process.pid)!;
  const [one, two] = [loadNative().createPool(layout), loadNative().createPool(layout)];
  const file = openSync('/dev/null', 'r');
  const mapped = loadNative().openPeerPool(process.pid, two.fd, layout);
  const now = footprintOf(process.pid)!;
  assert.is(now.numPools, before.numPools + 2, 'a pool that is mapped twice is one');
  assert.ok(now.numFiles >= before.numFiles + 3);
  mapped.close();
  one.close();
  two.close();
  closeSync(file);
  assert.equal(footprintOf(process.pid), before);
});

test('a process that is gone holds nothing', () => {
  assert.is(footprintOf(2 ** 22 + 1), null);
});

test('growth is named, and what comes and goes is none', () => {
  const before = { numFiles: 40, numPools: 1, numThreads: 20 };
  assert.is(growthOf(before, { numFiles: 60, numPools: 2, numThreads: 24 }, 2), null);
  assert.match(growthOf(before, { ...before, numPools: 3 }, 2)!, /3 pools mapped where 2 live/);
  assert.match(growthOf(before, { ...before, numFiles: 70 }, 2)!, /70 files open, 30 more/);
  assert.match(growthOf(before, { ...before, numThreads: 40 }, 2)!, /40 threads, 20 more/);
});

test.run();
