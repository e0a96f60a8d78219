// The soak over a shared store that fails: only cache is lost.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { redisBinary } from '../../src/chaos/chaos-redis.js';
import { faultKinds, isStoreFault } from '../../src/chaos/fault.js';
import { soak } from '../../src/chaos/soak.js';
import { allGone, descendantsOf } from '../processes.js';
import { options, withTransfer } from './soak-options.js';

for (const store of ['directory', 'redis'] as const) {
  test(`a shared store (${store}) that is damaged, lost, stopped, slow, full and unwritable costs no token`, async () => {
    if (store === 'redis' && redisBinary() === null) {
      console.log('skipped: redis-server is not installed');
      return;
    }
    const report = await soak(
      options({
        name: store,
        store,
        engine: withTransfer({ mode: 'bi', agent: 'shm' }),
        kinds: [...faultKinds.filter(isStoreFault), 'evict', 'kill'],
        numTurns: 18,
        numClients: 9,
      }),
    );
    assert.equal([report.wrong, report.lost, report.leaks], [[], [], []]);
    assert.ok(report.complete);
    const struck = Object.keys(report.faults).filter((kind) => kind.startsWith('store_'));
    assert.ok(struck.length >= 3, `of the store's faults only ${struck} struck`);
    assert.ok(await allGone(descendantsOf(process.pid)), 'a process is left');
  });
}

test.run();
