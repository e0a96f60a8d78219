// The side channel's wire format for any message and any damage: round trips, and PEER_FAILED as the only way to fail.
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import { FrameSeal, sealBytes } from '../../src/kv-transfer/frame-seal.js';
import { encodeFrame, type Frame, FrameDecoder, type FrameType } from '../../src/kv-transfer/frames.js';
import { Greeting } from '../../src/kv-transfer/greeting.js';
import * as messages from '../../src/kv-transfer/messages.js';
import { encodeRead } from './read-body.js';

const limits = { numRuns: 150, interruptAfterTimeLimit: 8000, markInterruptAsFailure: false };
const maxBodyBytes = 2 ** 18 + sealBytes;

const hexDigits = fc
  .uint8Array({ minLength: 32, maxLength: 32 })
  .map((it) => Buffer.from(it).toString('hex'));
const text = fc.string({ unit: 'binary', minLength: 1, maxLength: 200 });
const count = fc.maxSafeNat();
const uint32 = fc.nat(0xffff_ffff);
const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((it) => Buffer.from(it));
const frameType = fc.constantFrom<FrameType>(
  ...([
    'hello',
    'welcome',
    'refuse',
    'read',
    'notif',
    'ack',
    'open',
    'opened',
    'challenge',
    'proof',
  ] as const),
);

/** Objects as `{}` makes them. */
const plain = { noNullPrototype: true };

const hello = fc.record(
  {
    protocol: fc.constant('vllm-pd-kv' as const),
    version: count,
    nonce: hexDigits,
    compatibility_hash: text,
    engine_id: text,
    expected_engine_id: text,
  },
  plain,
);
const welcome = fc.record(
  {
    compatibility_hash: text,
    engine_id: text,
    host_identity: text,
    pid: count,
    pool_fd: count,
    num_blocks: fc.integer({ min: 1, max: 2 ** 31 - 1 }),
  },
  plain,
);
const notif = fc.record({ seq: uint32, requestId: text, numBlocks: count, numUnseenBytes: count }, plain);
const address = fc.record({ port: fc.integer({ min: 1, max: 65_535 }), secret: hexDigits }, plain);
const numPoolBlocks = 5000;
const read = fc
  .array(fc.tuple(fc.nat(numPoolBlocks - 1), hexDigits), { minLength: 1, maxLength: 40 })
  .chain((blocks) =>
    fc.tuple(uint32, fc.integer({ min: 1, max: 16 }), text).map(([seq, numLanes, requestId]) => ({
      ...{ seq, numLanes, requestId },
      blockIds: blocks.map(([id]) => id),
      hashes: blocks.map(([, hash]) => hash),
    })),
  );

const proof = hexDigits.map((it) => ({ proof: it }));
const reason = fc.string({ unit: 'binary', maxLength: 200 });

/** Any message as it is sent. */
const message: fc.Arbitrary<Frame> = fc.oneof(
  hello.map((it) => ({ type: 'hello' as const, body: messages.encodeJson(it) })),
  welcome.map((it) => ({ type: 'welcome' as const, body: messages.encodeJson(it) })),
  proof.map((it) => ({ type: 'proof' as const, body: messages.encodeJson(it) })),
  reason.map((it) => ({ type: 'refuse' as const, body: messages.encodeJson({ reason: it }) })),
  notif.map((it) => ({ type: 'notif' as const, body: messages.encodeNotif(it) })),
  read.map((it) => ({ type: 'read' as const, body: encodeRead(it) })),
  uint32.map((seq) => ({ type: 'open' as const, body: messages.encodeOpen(seq) })),
  fc
    .tuple(uint32, fc.boolean())
    .map(([seq, held]) => ({ type: 'ack' as const, body: messages.encodeAck(seq, held) })),
  fc
    .tuple(uint32, address)
    .map(([seq, to]) => ({ type: 'opened' as const, body: messages.encodeOpened(seq, to) })),
);

const decoders: readonly ((body: Buffer) => unknown)[] = [
  messages.decodeVersion,
  messages.decodeHello,
  messages.decodeWelcome,
  messages.decodeChallenge,
  messages.decodeProof,
  messages.decodeRefusal,
  messages.decodeNotif,
  messages.decodeAck,
  messages.decodeOpen,
  messages.decodeOpened,
];

/** What `run` returns; null when it fails as it may. Any other error is this test's. */
function orPeerFailed<T>(run: () => T): T | null {
  try {
    return run();
  } catch (error) {
    if (error instanceof VllmPdError && error.code === 'PEER_FAILED') return null;
    throw error;
  }
}

/** The stream in pieces that are cut where `cuts` say. */
function piecesOf(stream: Buffer, cuts: readonly number[]): Buffer[] {
  const at = [...cuts.map((cut) => cut % (stream.length + 1)), 0, stream.length].sort((a, b) => a - b);
  return at.slice(1).map((end, i) => stream.subarray(at[i], end));
}

/** Frames until the stream is lost. */
function framesOf(decoder: FrameDecoder, pieces: readonly Buffer[]): Frame[] {
  const frames: Frame[] = [];
  orPeerFailed(() => {
    for (const piece of pieces) for (const frame of decoder.push(piece)) frames.push(frame);
  });
  return frames;
}

type Damage = {
  readonly kind: 'flip' | 'drop' | 'repeat' | 'insert';
  readonly at: number;
  readonly by: number;
};

const damages = fc.array(
  fc.record<Damage>({
    kind: fc.constantFrom('flip', 'drop', 'repeat', 'insert'),
    at: fc.nat(),
    by: fc.nat(255),
  }),
  { maxLength: 4 },
);

function damaged(stream: Buffer, changes: readonly Damage[]): Buffer {
  return changes.reduce((now, { kind, at: anywhere, by }) => {
    const at = now.length === 0 ? 0 : anywhere % now.length;
    const [before, behind] = [now.subarray(0, at), now.subarray(at)];
    if (kind === 'drop') return Buffer.concat([before, behind.subarray(by % 40)]);
    if (kind === 'repeat') return Buffer.concat([before, behind.subarray(0, by), behind]);
    if (kind === 'insert') return Buffer.concat([before, Buffer.of(by), behind]);
    const changed = Buffer.from(now);
    if (changed.length > 0) changed[at]! ^= 1 << (by % 8);
    return changed;
  }, stream);
}

test('every message comes out as it went in', () => {
  fc.assert(
    fc.property(hello, welcome, notif, address, (aHello, aWelcome, aNotif, anAddress) => {
      assert.equal(messages.decodeHello(messages.encodeJson(aHello)), aHello);
      assert.is(messages.decodeVersion(messages.encodeJson(aHello)), aHello.version);
      assert.equal(messages.decodeWelcome(messages.encodeJson(aWelcome)), aWelcome);
      assert.equal(messages.decodeNotif(messages.encodeNotif(aNotif)), aNotif);
      assert.equal(messages.decodeOpened(messages.encodeOpened(aNotif.seq, anAddress)), anAddress);
      assert.is(messages.decodeOpen(messages.encodeOpen(aNotif.seq)), aNotif.seq);
      for (const wasHeld of [true, false])
        assert.is(messages.decodeAck(messages.encodeAck(aNotif.seq, wasHeld)), wasHeld);
    }),
    limits,
  );
});

test('frames come out whole and in order wherever the stream is cut', () => {
  fc.assert(
    fc.property(fc.array(message, { maxLength: 6 }), fc.array(fc.nat(), { maxLength: 12 }), (sent, cuts) => {
      const stream = Buffer.concat(sent.map(({ type, body }) => encodeFrame(type, body)));
      assert.equal(framesOf(new FrameDecoder(maxBodyBytes), piecesOf(stream, cuts)), sent);
    }),
    limits,
  );
});

test('noise ends in PEER_FAILED, in every decoder', () => {
  fc.assert(
    fc.property(bytes(400), (body) => {
      for (const decode of decoders) orPeerFailed(() => decode(body));
    }),
    { ...limits, numRuns: 500 },
  );
});

test('JSON of any shape ends in PEER_FAILED, in every decoder', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const json = Buffer.from(JSON.stringify(value));
      for (const decode of decoders) {
        orPeerFailed(() => decode(json));
        orPeerFailed(() => decode(Buffer.concat([Buffer.alloc(4), json])));
      }
    }),
    limits,
  );
});

test('a damaged stream gives frames no longer than the limit and the stream, and no error but PEER_FAILED', () => {
  fc.assert(
    fc.property(
      fc.array(message, { maxLength: 5 }),
      damages,
      fc.array(fc.nat(), { maxLength: 6 }),
      (sent, changes, cuts) => {
        const stream = damaged(Buffer.concat(sent.map(({ type, body }) => encodeFrame(type, body))), changes);
        const frames = framesOf(new FrameDecoder(maxBodyBytes), piecesOf(stream, cuts));
        const numBytes = frames.reduce((sum, { body }) => sum + body.length + 5, 0);
        assert.ok(numBytes <= stream.length, `${numBytes} bytes of frames out of ${stream.length}`);
        for (const { body } of frames) for (const decode of decoders) orPeerFailed(() => decode(body));
      },
    ),
    limits,
  );
});

test('a decoder makes no room for more than its limit, whatever a header says', () => {
  fc.assert(
    fc.property(bytes(5), fc.nat(1000), (header, limit) => {
      const before = process.memoryUsage().arrayBuffers;
      framesOf(new FrameDecoder(limit), [header]);
      assert.ok(process.memoryUsage().arrayBuffers - before < 2 ** 20);
    }),
    limits,
  );
});

const exchange = { hello: Buffer.from('hello'), ownerNonce: 'a'.repeat(64) };

// Fails without the counter in frame-seal.ts, and without its comparison.
test('of a sealed stream that is damaged, what is opened is what was sent, up to the damage', () => {
  fc.assert(
    fc.property(
      fc.array(message, { minLength: 1, maxLength: 5 }),
      damages,
      fc.option(text),
      (sent, changes, key) => {
        const sender = new FrameSeal('owner', key, exchange);
        const stream = Buffer.concat(sent.map(({ type, body }) => sender.seal(type, body)));
        const receiver = new FrameSeal('owner', key, exchange);
        const decoder = new FrameDecoder(maxBodyBytes);
        const opened: Frame[] = [];
        orPeerFailed(() => {
          for (const frame of decoder.push(damaged(stream, changes))) opened.push(receiver.open(frame));
        });
        assert.equal(opened, sent.slice(0, opened.length));
        if (changes.length === 0) assert.is(opened.length, sent.length);
      },
    ),
    limits,
  );
});

test('a seal of the other direction, of another key or of another handshake opens nothing', () => {
  fc.assert(
    fc.property(message, text, text, ({ type, body }, key, other) => {
      const sealed = new FrameSeal('owner', key, exchange).seal(type, body);
      const [frame] = framesOf(new FrameDecoder(maxBodyBytes), [sealed]);
      const nonce = { ...exchange, ownerNonce: 'b'.repeat(64) };
      const strangers = [new FrameSeal('reader', key, exchange), new FrameSeal('owner', key, nonce)];
      if (other !== key) strangers.push(new FrameSeal('owner', other, exchange));
      for (const stranger of strangers)
        assert.is(
          orPeerFailed(() => stranger.open(frame!)),
          null,
        );
      assert.equal(new FrameSeal('owner', key, exchange).open(frame!), { type, body });
    }),
    limits,
  );
});

test('no frames of a stranger are ever welcomed', () => {
  const identity = {
    ...{ compatibility_hash: 'same', engine_id: 'owner', host_identity: 'here' },
    ...{ pid: 1, pool_fd: 2, num_blocks: 3 },
  };
  const fitting = hello.map((it) => {
    const own = {
      version: messages.protocolVersion,
      compatibility_hash: 'same',
      expected_engine_id: 'owner',
    };
    return { type: 'hello' as const, body: messages.encodeJson({ ...it, ...own }) };
  });
  const noise = fc.record({ type: frameType, body: bytes(100) }, plain);
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fitting, message, noise), { maxLength: 6 }),
      fc.option(text),
      (frames, key) => {
        const greeting = new Greeting(identity, key);
        orPeerFailed(() => {
          for (const frame of frames) {
            const step = greeting.next(frame);
            assert.is.not(step.kind, 'welcomes');
            if (step.kind === 'refuses') return;
          }
        });
      },
    ),
    limits,
  );
});

test.run();
