// Side-channel frames and messages: whole through any cut of the stream, and refused when they cannot be.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import { newNonce } from '../../src/kv-transfer/authentication.js';
import { FrameSeal } from '../../src/kv-transfer/frame-seal.js';
import { encodeFrame, type Frame, FrameDecoder, frameHeader } from '../../src/kv-transfer/frames.js';
import {
  decodeHello,
  decodeNotif,
  decodeWelcome,
  encodeNotif,
  maxBlocksPerChunk,
  maxBlocksPerRead,
} from '../../src/kv-transfer/messages.js';

function decodeAll(decoder: FrameDecoder, chunks: readonly Buffer[]): Frame[] {
  return chunks.flatMap((chunk) => [...decoder.push(chunk)]);
}

function isPeerFailure(run: () => unknown): void {
  assert.throws(run, (error: unknown) => error instanceof VllmPdError && error.code === 'PEER_FAILED');
}

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
  for (const bytes of [
    '0000000001',
    'ffffffff04',
    '0000000100',
    '0000000105',
    '0000000112',
    '00000001ff',
    '474554202f',
  ]) {
    isPeerFailure(() => decodeAll(new FrameDecoder(2 ** 20), [Buffer.from(bytes, 'hex')]));
  }
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
  assert.is(maxBlocksPerChunk(2 ** 20), 16);
  assert.is(maxBlocksPerChunk(10 * 2 ** 20), 1);
});

function sealPair(from: 'owner' | 'reader' = 'owner', key: string | null = 'a key') {
  const exchange = { hello: Buffer.from('hello'), ownerNonce: newNonce() };
  return [new FrameSeal(from, key, exchange), new FrameSeal(from, key, exchange), exchange] as const;
}

// Fails without the comparison in FrameSeal.open, or without the parity bit of the header.
test('a bit that flips anywhere in a sealed frame is noticed by the frame itself', () => {
  const body = encodeNotif({ seq: 7, requestId: 'r', numBlocks: 3, numUnseenBytes: 0 });
  for (let bit = 0; ; bit += 1) {
    const [sender, receiver] = sealPair();
    const bytes = sender.seal('notif', body);
    if (bit === 8 * bytes.length) break;
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    isPeerFailure(() => {
      const frames = decodeAll(new FrameDecoder(1000), [bytes]);
      assert.is(frames.length, 1, `bit ${bit}: it waits for more`);
      receiver.open(frames[0]!);
    });
  }
});

test('a sealed frame is opened once, in its turn, in its direction, under its key', () => {
  const sealed = (seal: FrameSeal, text: string) =>
    decodeAll(new FrameDecoder(1000), [seal.seal('ack', Buffer.from(text))])[0]!;
  const [sender, receiver, exchange] = sealPair();
  const [first, second, third] = ['one', 'two', 'three'].map((text) => sealed(sender, text));
  assert.is(receiver.open(first!).body.toString(), 'one');
  isPeerFailure(() => receiver.open(first!));
  const [, late] = [receiver, new FrameSeal('owner', 'a key', exchange)];
  isPeerFailure(() => late.open(second!));
  assert.is(late.open(second!).body.toString(), 'two', 'its turn has come');
  isPeerFailure(() => late.open({ ...third!, type: 'opened' }));
  for (const other of [
    new FrameSeal('reader', 'a key', exchange),
    new FrameSeal('owner', 'another key', exchange),
    new FrameSeal('owner', null, exchange),
    new FrameSeal('owner', 'a key', { ...exchange, ownerNonce: newNonce() }),
  ]) {
    isPeerFailure(() => other.open(first!));
  }
  isPeerFailure(() => new FrameSeal('owner', 'a key', exchange).open({ type: 'ack', body: Buffer.alloc(3) }));
});

test.run();
