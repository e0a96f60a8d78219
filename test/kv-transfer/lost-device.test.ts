// A pool on a device that is lost: who reads from it over tcp is told, and its owner lives on.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import { loadNative } from '../../src/native.js';
import { useEmulatedDevice } from '../native/emulated-device.js';
import { hashOf, layout } from './transfer-node.js';

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'none';
  } catch (error) {
    return error instanceof VllmPdError ? error.code : String(error);
  }
}

test('a read over tcp from a device that was lost ends the reader’s connection and not the owner', async () => {
  if (!useEmulatedDevice()) return;
  // No kernel is launched any more: the first one that is asked for loses the device. No memory is shared either.
  process.env.VLLM_PD_EMULATED_LAUNCHES = '0';
  process.env.VLLM_PD_EMULATED_IPC = 'off';
  const native = loadNative();
  const [pool, other] = [native.createPool(layout, 'device'), native.createPool(layout, 'device')];
  const into = native.createPool(layout);
  pool.publish(1, hashOf('block 1'));
  const hash = hashOf('block 1');
  const holds = native.createHoldTable();
  holds.grant('held', [1], 60_000);
  const server = native.createDataServer(pool, holds, '127.0.0.1');
  const key = Buffer.alloc(32, 1);
  const { secret } = server.openSession(key);
  const lanes = await native.openDataLanes({ host: '127.0.0.1', port: server.port }, secret, key, 2);
  const read = () =>
    lanes.read(
      { holdId: 'held', numLanes: 1, remoteBlockIds: [1], localBlockIds: [2], hashes: [hash] },
      into,
    );
  assert.equal([...(await read())], [1]);
  const peer = native.openPeerPool(process.pid, pool.fd, layout);
  assert.is(await codeOf(Promise.resolve(peer.read(other, [1], [1], [hash]))), 'DEVICE_LOST');
  assert.is(await codeOf(read()), 'PEER_FAILED');
  lanes.close();
  server.close();
  peer.close();
  for (const each of [pool, other, into]) each.close();
});

test.run();
