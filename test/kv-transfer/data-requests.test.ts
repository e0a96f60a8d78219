// The owner's end of data connections: who is let in, which reads are answered, and how.
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import { FrameSeal, sealKey } from '../../src/kv-transfer/frame-seal.js';
import { encodeFrame } from '../../src/kv-transfer/frames.js';
import type { DataLanes, DataServer } from '../../src/native/data-channel.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import type { KvPoolLayout } from '../../src/native/kv-pool-layout.js';
import { loadNative } from '../../src/native.js';
import { encodeRead, type ReadRequest } from './read-body.js';
import { fillBlock, hashOf, layout, until } from './transfer-node.js';

const hashOfId = (id: number) => hashOf(`block ${id}`);
const noise = Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * 7919 + 13) % 251));

const exchange = { hello: Buffer.from('hello'), ownerNonce: '0' };
/** Of one session's requests, at both ends. */
const key = sealKey('reads', 'a key', exchange);
/** A reader's by hand. */
const newSeal = () => new FrameSeal('reads', 'a key', exchange);

const readOf = (blockIds: readonly number[], more: Partial<ReadRequest> = {}): ReadRequest => ({
  ...{ seq: 1, numLanes: 1, requestId: 'held', blockIds, hashes: blockIds.map(hashOfId) },
  ...more,
});

/** A data server on a pool whose blocks are all held, but the first, under 'held'. */
async function withServer(
  its: KvPoolLayout,
  use: (server: DataServer, pool: KvPool) => Promise<void>,
): Promise<void> {
  const pool = loadNative().createPool(its);
  const holds = loadNative().createHoldTable();
  holds.grant(
    'held',
    Array.from({ length: its.numBlocks - 1 }, (_, i) => i + 1),
    60_000,
  );
  const server = loadNative().createDataServer(pool, holds, '127.0.0.1');
  try {
    await use(server, pool);
  } finally {
    server.close();
    pool.close();
  }
}

const openLanes = (port: number, secret: string, numLanes: number) =>
  loadNative().openDataLanes({ host: '127.0.0.1', port }, secret, key, numLanes);

/** Reads block 1 into block 2. */
const readOne = (lanes: DataLanes, pool: KvPool) =>
  lanes.read(
    { holdId: 'held', numLanes: 1, remoteBlockIds: [1], localBlockIds: [2], hashes: [hashOfId(1)] },
    pool,
  );

/** What the data listener makes of these bytes: what it sends until it closes, or null when it keeps quiet. */
async function knock(port: number, ...parts: readonly Buffer[]): Promise<Buffer | null> {
  const socket = connect({ host: '127.0.0.1', port });
  socket.on('error', () => {});
  const received: Buffer[] = [];
  socket.on('data', (chunk) => received.push(chunk));
  for (const bytes of parts) socket.write(bytes);
  let isQuiet = false;
  const quiet = setTimeout(() => {
    isQuiet = true;
    socket.destroy();
  }, 500);
  await once(socket, 'close').catch(() => {});
  clearTimeout(quiet);
  return isQuiet && received.length === 0 ? null : Buffer.concat(received);
}

/** The first connection of a session, welcomed. */
async function enter(port: number, secret: string): Promise<Socket> {
  const socket = connect({ host: '127.0.0.1', port });
  socket.on('error', () => {});
  socket.write(Buffer.from(`${secret}00`, 'hex'));
  await once(socket, 'readable');
  assert.equal([...(socket.read() as Buffer)], [1], 'it is let in');
  return socket;
}

// Fails without the comparison of secrets in native/data_server.cc.
test('the data listener lets in who knows the secret, once a connection, and nobody else', async () => {
  await withServer(layout, async (server, pool) => {
    const { id, secret } = server.openSession(key);
    const other = server.openSession(key);
    assert.is.not(secret, other.secret);
    const greetingOf = (lane: number, text = secret) =>
      Buffer.from(text + Buffer.of(lane).toString('hex'), 'hex');
    const wrong = Buffer.from(secret, 'hex');
    wrong[31]! ^= 1;
    for (const greeting of [Buffer.concat([wrong, Buffer.of(0)]), Buffer.alloc(33), noise, greetingOf(16)]) {
      assert.equal(await knock(server.port, greeting), Buffer.alloc(0), 'closed without a word');
    }
    assert.is(await knock(server.port, greetingOf(0).subarray(0, 32)), null, 'it waits for all of it');
    const lanes = await openLanes(server.port, secret, 2);
    assert.equal(
      await knock(server.port, greetingOf(1)),
      Buffer.alloc(0),
      'that connection is there already',
    );
    assert.equal([...(await readOne(lanes, pool))], [0]);
    server.closeSession(id);
    const error = await readOne(lanes, pool).catch((e: VllmPdError) => e);
    assert.ok(error instanceof VllmPdError);
    assert.is(error.code, 'PEER_FAILED');
    assert.equal(
      await knock(server.port, greetingOf(3)),
      Buffer.alloc(0),
      'nor does its secret open anything',
    );
    lanes.close();
  });
});

const good = encodeRead(readOf([1]));
const lengthened = (frame: Buffer) => {
  const longer = Buffer.from(frame);
  longer[2]! ^= 0x60;
  return longer;
};
const named = (requestId: string) => encodeRead(readOf([1], { requestId }));
const patched = (at: number, value: number) => {
  const body = Buffer.from(good);
  body.writeUInt32BE(value, at);
  return body;
};

const intrusions: [name: string, frames: (seal: FrameSeal) => Buffer][] = [
  ['noise', () => noise],
  ['a read without a seal', () => encodeFrame('read', good)],
  ['a read with a seal of zeros', () => encodeFrame('read', Buffer.concat([good, Buffer.alloc(16)]))],
  ['a read sealed by another key', () => new FrameSeal('reads', 'another key', exchange).seal('read', good)],
  [
    'a read that is not the first, but sealed as such',
    (seal) => {
      seal.seal('read', good);
      return seal.seal('read', good);
    },
  ],
  ['a notification', (seal) => seal.seal('notif', good)],
  ['a length that is another one', (seal) => lengthened(seal.seal('read', good))],
  ['a read of 4 GiB', () => Buffer.from('ffffffff04', 'hex')],
  ['a read outside the pool', (seal) => seal.seal('read', encodeRead(readOf([1, 64])))],
  ['a read of block 4294967295', (seal) => seal.seal('read', encodeRead(readOf([0xffff_ffff])))],
  ['a read of nothing', (seal) => seal.seal('read', encodeRead(readOf([])))],
  ['a read of more blocks than it names', (seal) => seal.seal('read', patched(4, 2))],
  ['a read of 2 G blocks', (seal) => seal.seal('read', patched(4, 0x7fff_ffff))],
  ['a read that is too short', (seal) => seal.seal('read', good.subarray(0, -1))],
  ['a read that is too long', (seal) => seal.seal('read', Buffer.concat([good, Buffer.alloc(1)]))],
  ['a read under no name', (seal) => seal.seal('read', named(''))],
  ['a read under a name without end', (seal) => seal.seal('read', named('x'.repeat(2049)))],
  ['a read over no connection', (seal) => seal.seal('read', patched(12, 0))],
  ['a read over 17 connections', (seal) => seal.seal('read', patched(12, 17))],
];

for (const [name, frames] of intrusions) {
  test(`${name} ends the session, and nobody else's`, async () => {
    await withServer(layout, async (server, pool) => {
      fillBlock(pool, 1);
      const [intruder, other] = [server.openSession(key), server.openSession(key)];
      const greeting = Buffer.from(`${intruder.secret}00`, 'hex');
      assert.equal(
        [...((await knock(server.port, greeting, frames(newSeal()))) ?? [])],
        [1],
        'let in, and closed without a reply',
      );
      const lanes = await openLanes(server.port, other.secret, 1);
      assert.equal([...(await readOne(lanes, pool))], [1]);
      assert.is(server.bytesSent, pool.blockBytes);
      lanes.close();
    });
  });
}

test('a read of more blocks than a reply may have ends the session', async () => {
  // 2 MiB each, so that a reply has 8.
  const large = { ...layout, numKvHeads: 64, headDim: 128, numBlocks: 10 };
  const ids = Array.from({ length: 9 }, (_, i) => i + 1);
  await withServer(large, async (server) => {
    const { secret } = server.openSession(key);
    const frame = newSeal().seal('read', encodeRead(readOf(ids)));
    assert.equal([...((await knock(server.port, Buffer.from(`${secret}00`, 'hex'), frame)) ?? [])], [1]);
  });
});

// Fails when either end spreads a read otherwise than the other.
test('a reply comes over as many connections as were asked for, in order, behind others that wait there', async () => {
  const large = { ...layout, numKvHeads: 8, headDim: 128 };
  await withServer(large, async (server, pool) => {
    const ids = Array.from({ length: 63 }, (_, i) => i + 1);
    for (const id of ids) {
      pool.block(id).fill(id);
      if (id !== 5) pool.publish(id, hashOfId(id));
    }
    const { secret } = server.openSession(key);
    const lanes = await openLanes(server.port, secret, 4);
    // 16 MiB are more than the sockets hold, one block fits; 5 over 4 connections are 2, 2 and 1.
    const reads = [1, 63, 5, 1, 63].map((count, i) => {
      const remoteBlockIds = ids.slice(0, count);
      const blocks = {
        holdId: 'held',
        numLanes: 4 - (i % 2),
        remoteBlockIds,
        localBlockIds: remoteBlockIds.map((id) => 64 - id),
        hashes: remoteBlockIds.map(hashOfId),
      };
      const local = loadNative().createPool(large);
      return { ...blocks, local, arriving: lanes.read(blocks, local) };
    });
    for (const { remoteBlockIds, localBlockIds, local, arriving } of reads) {
      assert.equal(
        [...(await arriving)],
        remoteBlockIds.map((id) => (id === 5 ? 0 : 1)),
      );
      for (const [i, id] of remoteBlockIds.entries()) {
        if (id !== 5)
          assert.ok(
            local.block(localBlockIds[i]!).every((byte) => byte === id),
            `block ${id}`,
          );
      }
      local.close();
    }
    lanes.close();
  });
});

test('a reader that takes nothing keeps no other reader waiting, and is cut off when too much waits for it', async () => {
  await withServer(layout, async (server, pool) => {
    fillBlock(pool, 1);
    const [lazy, other] = [server.openSession(key), server.openSession(key)];
    const idle = await enter(server.port, lazy.secret);
    const seal = newSeal();
    const ask = () => idle.write(seal.seal('read', good));
    // 20 MiB of replies, far more than the sockets hold.
    for (let i = 0; i < 5000; i += 1) ask();
    const lanes = await openLanes(server.port, other.secret, 1);
    assert.equal([...(await readOne(lanes, pool))], [1]);
    lanes.close();
    await until(() => {
      if (!idle.destroyed) ask();
      return idle.destroyed;
    }, 'the reader that takes nothing to be cut off');
  });
});

// Fails without the second look at a block's row, behind its bytes.
test('a block that is rewritten while others before it are on their way is not called valid', async () => {
  const large = { ...layout, numKvHeads: 8, headDim: 128 };
  await withServer(large, async (server, pool) => {
    // 16 MiB, far more than the sockets hold.
    const ids = Array.from({ length: 63 }, (_, i) => i + 1);
    for (const id of ids) pool.publish(id, hashOfId(id));
    const { secret } = server.openSession(key);
    const reader = await enter(server.port, secret);
    reader.write(newSeal().seal('read', encodeRead(readOf(ids))));
    // The reply has begun: all rows were looked at once.
    await once(reader, 'readable');
    pool.publish(63, hashOf('other tokens'));
    const numBytes = 8 + 63 + 4 + 63 * pool.blockBytes + 63 + 252 + 4;
    const chunks: Buffer[] = [];
    for (let numRead = 0; numRead < numBytes; ) {
      const chunk = reader.read() as Buffer | null;
      if (chunk) chunks.push(chunk);
      else await once(reader, 'readable');
      numRead += chunk?.length ?? 0;
    }
    reader.destroy();
    const valid = [...Buffer.concat(chunks).subarray(-319, -256)];
    assert.equal(valid, [...Array(62).fill(1), 0]);
  });
});

test.run();
