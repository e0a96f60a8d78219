// Side-channel frames and messages: whole through any cut of the stream, and refused when they cannot be.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import { encodeFrame, type Frame, FrameDecoder, frameHeader } from '../../src/kv-transfer/frames.js';
import {
  decodeBlocks,
  decodeHello,
  decodeNotif,
  decodeRead,
  decodeWelcome,
  encodeBlocksHead,
  encodeNotif,
  encodeRead,
  maxBlocksBodyBytes,
  maxBlocksPerChunk,
  maxBlocksPerRead,
} from '../../src/kv-transfer/messages.js';

function decodeAll(decoder: FrameDecoder, chunks: readonly Buffer[]): Frame[] {
  return chunks.flatMap((chunk) => [...decoder.push(chunk)]);
}

function isPeerFailure(run: () => unknown): void {
  assert.throws(run, (error: unknown) => error instanceof VllmPdError && error.code === 'PEER_FAILED');
}

const hash = (digit: string) => digit.repeat(64);

test('frames come out whole however the stream is cut', () => {
  const bodies = [Buffer.alloc(0), Buffer.from('a'), Buffer.alloc(1000, 7), Buffer.from('end')];
  const stream = Buffer.concat(bodies.map((body) => encodeFrame('read', body)));
  for (const size of [1, 2, 4, 5, 6, 13, 999, stream.length]) {
    const chunks = [];
    for (let at = 0; at < stream.length; at += size) chunks.push(stream.subarray(at, at + size));
    const frames = decodeAll(new FrameDecoder(1000), chunks);
    assert.equal(
      frames.map(({ type, body }) => [type, body.toString('latin1')]),
      bodies.map((body) => ['read', body.toString('latin1')]),
      `cut every ${size} bytes`,
    );
  }
});

test('a frame longer than the limit is refused by its header alone', () => {
  isPeerFailure(() => decodeAll(new FrameDecoder(1000), [frameHeader('read', 1001)]));
  assert.equal(decodeAll(new FrameDecoder(1000), [frameHeader('read', 1000)]), []);
});

test('lengths and types that cannot be are refused', () => {
  for (const bytes of ['0000000001', 'ffffffff04', '0000000100', '0000000109', '00000001ff', '474554202f']) {
    isPeerFailure(() => decodeAll(new FrameDecoder(2 ** 20), [Buffer.from(bytes, 'hex')]));
  }
});

test('a read carries ids, hashes and the hold that they belong to', () => {
  const request = {
    seq: 77,
    requestId: 'gehalten-ü',
    blockIds: [1, 5, 63],
    hashes: [hash('a'), hash('0'), hash('f')],
  };
  assert.equal(decodeRead(encodeRead(request), 64, 3), request);
});

test('a read outside the pool, of nothing, of too much or of another length is refused', () => {
  const read = (blockIds: number[]) =>
    encodeRead({ seq: 1, requestId: 'held', blockIds, hashes: blockIds.map(() => hash('a')) });
  isPeerFailure(() => decodeRead(read([1, 64]), 64, 10));
  isPeerFailure(() => decodeRead(read([0xffff_ffff]), 64, 10));
  isPeerFailure(() => decodeRead(read([]), 64, 10));
  isPeerFailure(() => decodeRead(read([1, 2, 3]), 64, 2));
  isPeerFailure(() => decodeRead(read([1, 2]).subarray(0, -1), 64, 10));
  isPeerFailure(() => decodeRead(Buffer.concat([read([1, 2]), Buffer.alloc(1)]), 64, 10));
  isPeerFailure(() => decodeRead(Buffer.alloc(7), 64, 10));
  const named = (requestId: string) => encodeRead({ seq: 1, requestId, blockIds: [1], hashes: [hash('a')] });
  isPeerFailure(() => decodeRead(named(''), 64, 10));
  isPeerFailure(() => decodeRead(named('x'.repeat(2049)), 64, 10));
  const lie = read([1, 2]);
  lie.writeUInt32BE(0x7fff_ffff, 4);
  isPeerFailure(() => decodeRead(lie, 64, maxBlocksPerRead));
});

test('a reply carries the bytes of its valid blocks only', () => {
  const reply = Buffer.concat([encodeBlocksHead(9, new Uint8Array([1, 0, 1])), Buffer.alloc(8, 5)]);
  const { valid, data } = decodeBlocks(reply, 3, 4);
  assert.equal([...valid], [1, 0, 1]);
  assert.is(data.length, 8);
  isPeerFailure(() => decodeBlocks(reply, 2, 4));
  isPeerFailure(() => decodeBlocks(reply, 3, 5));
  isPeerFailure(() => decodeBlocks(reply.subarray(0, -1), 3, 4));
  isPeerFailure(() => decodeBlocks(Buffer.alloc(3), 3, 4));
});

test('a validity byte is 0 or 1', () => {
  const reply = Buffer.concat([encodeBlocksHead(9, new Uint8Array([1, 2])), Buffer.alloc(4)]);
  isPeerFailure(() => decodeBlocks(reply, 2, 4));
});

test('a notification carries the id, and what the owner could not see', () => {
  const notif = { seq: 3, requestId: 'lease-1', numBlocks: 19, numUnseenBytes: 4096 };
  assert.equal(decodeNotif(encodeNotif(notif)), notif);
});

test('handshakes and notifications of the wrong shape are refused', () => {
  const json = (value: unknown) => Buffer.from(JSON.stringify(value));
  for (const body of [Buffer.alloc(0), Buffer.from('{'), json(null), json([]), json({ protocol: 'http' })]) {
    isPeerFailure(() => decodeHello(body));
    isPeerFailure(() => decodeWelcome(body));
    isPeerFailure(() => decodeNotif(body));
  }
  const seq = Buffer.alloc(4);
  for (const fields of [
    { request_id: '', num_blocks: 0, num_unseen_bytes: 0 },
    { request_id: 'a', num_blocks: -1, num_unseen_bytes: 0 },
    { request_id: 'a', num_blocks: 0, num_unseen_bytes: 1e300 },
    { request_id: 'a'.repeat(600), num_blocks: 0, num_unseen_bytes: 0 },
  ]) {
    isPeerFailure(() => decodeNotif(Buffer.concat([seq, json(fields)])));
  }
});

test('chunks stay within their limits for small and for huge blocks', () => {
  assert.is(maxBlocksPerChunk(512), maxBlocksPerRead);
  assert.is(maxBlocksPerChunk(2 ** 20), 4);
  assert.is(maxBlocksPerChunk(10 * 2 ** 20), 1);
  for (const blockBytes of [512, 4096, 2 ** 20, 10 * 2 ** 20]) {
    assert.ok(maxBlocksBodyBytes(blockBytes) >= 8 + maxBlocksPerChunk(blockBytes) * (blockBytes + 1));
  }
});

test.run();
