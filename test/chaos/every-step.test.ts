// What ends a turn, at each of its steps and to each node: none is left to chance.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Fault, type PlannedFault, type Side, steps } from '../../src/chaos/fault.js';
import { soak } from '../../src/chaos/soak.js';
import { allGone, descendantsOf } from '../processes.js';
import { options, withTransfer } from './soak-options.js';

const faultsOf = (side: Side): Fault[] => [
  { kind: 'kill', side },
  { kind: 'stop', side, ms: 200 },
  { kind: 'partition', side, ms: 200 },
  { kind: 'blackhole', side, ms: 200 },
];
const all: readonly Fault[] = [
  ...faultsOf('prefill'),
  ...faultsOf('decode'),
  { kind: 'cut_hop' },
  { kind: 'slow_hop', ms: 200 },
  { kind: 'restart_proxy' },
];

/** Fault by fault, so that of those that are armed together each waits for a step of its own. */
const everywhere: PlannedFault[] = all.flatMap((fault) => steps.map((step) => ({ step, fault })));

test('nodes killed, stopped, cut off and silenced at every step of a turn cost no token and leave nothing', async () => {
  const report = await soak(
    options({
      engine: withTransfer({
        mode: 'bi',
        agent: 'tcp',
        kvLeaseDurationMs: 1000,
        kvReadTimeoutMs: 2000,
        kvPeerTimeoutMs: 500,
      }),
      faults: everywhere,
      numClients: 12,
      // Steps that the last rounds did not get to, since a node was down, come in one more.
      numTurns: everywhere.length + 18,
    }),
  );
  assert.equal([report.wrong, report.lost, report.leaks], [[], [], []]);
  assert.is(report.num_faults, everywhere.length, 'each has struck');
  assert.ok(await allGone(descendantsOf(process.pid)), 'a process is left');
});

test.run();
