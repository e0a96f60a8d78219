// The reader's end of data connections: what it asks for, in which order, and how it is sealed.
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { VllmPdError } from '../../src/errors.js';
import { FrameSeal, sealKey } from '../../src/kv-transfer/frame-seal.js';
import { FrameDecoder } from '../../src/kv-transfer/frames.js';
import type { DataLanes, RemoteRead } from '../../src/native/data-channel.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import { loadNative } from '../../src/native.js';
import { decodeRead, type ReadRequest } from './read-body.js';
import { hashOf, layout, until } from './transfer-node.js';

const exchange = { hello: Buffer.from('hello'), ownerNonce: '0' };
const key = sealKey('reads', 'a key', exchange);
const secret = 'ab'.repeat(32);
const numLanes = 4;

const readOf = (remoteBlockIds: readonly number[], more: Partial<RemoteRead> = {}): RemoteRead => ({
  ...{ holdId: 'held', numLanes: 1, remoteBlockIds, localBlockIds: remoteBlockIds.map(() => 1) },
  hashes: remoteBlockIds.map((id) => hashOf(`block ${id}`)),
  ...more,
});

interface Owner {
  /** What was asked for, as far as it has come. */
  readonly asked: readonly ReadRequest[];
  /** The first data connection at this end. */
  readonly socket: Socket;
}

/** That none of the blocks is there. */
function emptyReply({ seq, blockIds }: ReadRequest): Buffer {
  const number = (value: number) => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(value);
    return bytes;
  };
  const checkOf = (...parts: Buffer[]) => number(loadNative().crc32c(Buffer.concat(parts)));
  const head = Buffer.concat([number(seq), number(blockIds.length), Buffer.alloc(blockIds.length)]);
  const tail = Buffer.alloc(5 * blockIds.length);
  return Buffer.concat([head, checkOf(head), tail, checkOf(head, tail)]);
}

/** An owner by hand, which opens requests; its reader's connections are `lanes`. */
async function withOwner(
  use: (lanes: DataLanes, owner: Owner, pool: KvPool) => Promise<void>,
  { answers = false } = {},
): Promise<void> {
  const sockets: Socket[] = [];
  const asked: ReadRequest[] = [];
  const seal = new FrameSeal('reads', 'a key', exchange);
  const decoder = new FrameDecoder(2 ** 20);
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => {});
    socket.once('data', (greeting) => {
      assert.is(greeting.toString('hex', 0, 32), secret);
      socket.on('data', (chunk) => {
        for (const frame of decoder.push(chunk)) {
          const request = decodeRead(seal.open(frame).body);
          asked.push(request);
          if (answers) socket.write(emptyReply(request));
        }
      });
      socket.write(Buffer.of(1));
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const pool = loadNative().createPool(layout);
  const lanes = await loadNative().openDataLanes({ host: '127.0.0.1', port }, secret, key, numLanes);
  try {
    await use(lanes, { asked, socket: sockets[0]! }, pool);
  } finally {
    lanes.close();
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, 'close');
    pool.close();
  }
}

/** How the read ends. */
const endOf = (read: Promise<Uint8Array>) =>
  read.then(
    () => 'arrived',
    (error: VllmPdError) => error.code,
  );

const hexDigits = fc
  .uint8Array({ minLength: 32, maxLength: 32 })
  .map((it) => Buffer.from(it).toString('hex'));

const anyRead: fc.Arbitrary<RemoteRead> = fc
  .array(fc.tuple(fc.nat(2 ** 31 - 1), hexDigits), { minLength: 1, maxLength: 40 })
  .chain((blocks) =>
    fc.record({
      holdId: fc.string({ unit: 'grapheme', minLength: 1, maxLength: 200 }),
      numLanes: fc.integer({ min: 1, max: numLanes }),
      remoteBlockIds: fc.constant(blocks.map(([id]) => id)),
      localBlockIds: fc.constant(blocks.map(() => 1)),
      hashes: fc.constant(blocks.map(([, hash]) => hash)),
    }),
  );

test('reads are asked for with ids, hashes and the hold that they are under, numbered and sealed in their turn', async () => {
  await withOwner(async (lanes, owner, pool) => {
    const reads = [readOf([1, 5, 63], { holdId: 'gehalten-ü' }), ...fc.sample(anyRead, 60)];
    const ends = reads.map((read) => endOf(lanes.read(read, pool)));
    await until(() => owner.asked.length === reads.length, 'all requests');
    const expected = reads.map(({ holdId, remoteBlockIds, ...read }, i) => ({
      ...{ seq: i + 1, numLanes: read.numLanes, requestId: holdId },
      ...{ blockIds: remoteBlockIds, hashes: read.hashes },
    }));
    assert.equal(owner.asked, expected);
    lanes.close();
    assert.equal(new Set(await Promise.all(ends)), new Set(['PEER_FAILED']));
  });
});

test('what cannot be asked for is refused before anything is sent', async () => {
  await withOwner(async (lanes, owner, pool) => {
    const closed = loadNative().createPool(layout);
    closed.close();
    const wrong: [read: RemoteRead, into?: KvPool][] = [
      [readOf([])],
      [readOf([-1])],
      [readOf([2 ** 31])],
      [readOf([1], { localBlockIds: [layout.numBlocks] })],
      [readOf([1], { localBlockIds: [1, 2] })],
      [readOf([1], { hashes: ['ab'] })],
      [readOf([1, 2], { hashes: [hashOf('block 1')] })],
      [readOf([1], { numLanes: 0 })],
      [readOf([1], { numLanes: numLanes + 1 })],
      [readOf([1], { holdId: null as unknown as string })],
      [readOf([1]), closed],
    ];
    for (const [read, into = pool] of wrong)
      assert.is(await endOf(lanes.read(read, into)), 'INVALID_ARGUMENT');
    const end = endOf(lanes.read(readOf([7]), pool));
    await until(() => owner.asked.length > 0, 'the request');
    assert.equal([owner.asked[0]!.seq, owner.asked[0]!.blockIds], [1, [7]]);
    lanes.close();
    assert.is(await end, 'PEER_FAILED');
    assert.is(await endOf(lanes.read(readOf([7]), pool)), 'PEER_FAILED', 'nor is a closed one read');
  });
});

test('requests that the connection does not take at once follow in their order', async () => {
  await withOwner(
    async (lanes, owner, pool) => {
      owner.socket.pause();
      // 28 MiB, more than sockets hold.
      const ids = Array.from({ length: 4096 }, (_, i) => i);
      const read = readOf(ids);
      const reads = Array.from({ length: 200 }, () => lanes.read(read, pool));
      owner.socket.resume();
      for (const arrivals of await Promise.all(reads)) assert.equal(arrivals, new Uint8Array(ids.length));
      assert.equal(
        owner.asked.map(({ seq }) => seq),
        reads.map((_, i) => i + 1),
      );
      for (const { blockIds } of owner.asked) assert.equal(blockIds, ids);
    },
    { answers: true },
  );
});

test('closing ends reads whose requests have not been sent', async () => {
  await withOwner(async (lanes, owner, pool) => {
    owner.socket.pause();
    const read = readOf(Array.from({ length: 4096 }, (_, i) => i));
    const ends = Array.from({ length: 200 }, () => endOf(lanes.read(read, pool)));
    lanes.close();
    assert.equal(new Set(await Promise.all(ends)), new Set(['PEER_FAILED']));
  });
});

test.run();
