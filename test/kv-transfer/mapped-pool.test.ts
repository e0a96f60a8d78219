// A mapped peer pool is unmapped once, and only when no read uses it any more.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { MappedPool } from '../../src/kv-transfer/agent-shm.js';
import type { KvPool, PeerPool } from '../../src/native/kv-pool.js';
import { layout, pullOf } from './transfer-node.js';

const into = { blockBytes: 4096 } as KvPool;
const remote = { engineId: 'owner', host: '127.0.0.1', port: 1, requestId: 'held' };

/** A peer pool whose reads end when the test says so. */
function createPeerPool() {
  const log: string[] = [];
  let endRead: (valid: Uint8Array) => void = () => {};
  const pool: PeerPool = {
    layout,
    place: 'host',
    read: () =>
      new Promise((resolve) => {
        endRead = resolve;
      }),
    close: () => log.push('unmapped'),
  };
  return { pool, log, endRead: (valid: Uint8Array) => endRead(valid) };
}

test('close waits for a read under way', async () => {
  const { pool, log, endRead } = createPeerPool();
  const mapped = new MappedPool(pool);
  const reading = mapped.read(pullOf(remote, [1, 2]), into).then((result) => {
    log.push('read');
    return result;
  });
  const closing = mapped.close();
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(log, []);
  endRead(new Uint8Array([1, 0]));
  assert.equal(await reading, { valid: new Uint8Array([1, 0]), numBytes: 4096 });
  await closing;
  assert.equal(log, ['read', 'unmapped']);
});

test('close unmaps once', async () => {
  const { pool, log } = createPeerPool();
  const mapped = new MappedPool(pool);
  await Promise.all([mapped.close(), mapped.close()]);
  await mapped.close();
  assert.equal(log, ['unmapped']);
});

test.run();
