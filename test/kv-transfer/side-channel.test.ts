// Whatever reaches the side channel from a stranger closes that connection and nothing else.
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import { newNonce, proofOf } from '../../src/kv-transfer/authentication.js';
import { FrameSeal, type Sender } from '../../src/kv-transfer/frame-seal.js';
import { encodeFrame, FrameDecoder, type FrameType, frameHeader } from '../../src/kv-transfer/frames.js';
import { compatibilityHash, hostIdentity } from '../../src/kv-transfer/handshake.js';
import {
  decodeChallenge,
  decodeRefusal,
  decodeWelcome,
  encodeJson,
  encodeNotif,
  encodeOpen,
  encodeOpened,
  type Hello,
  protocolVersion,
} from '../../src/kv-transfer/messages.js';
import { loadNative } from '../../src/native.js';
import { decodeRead, encodeRead } from './read-body.js';
import {
  fillBlock,
  hashOf,
  layout,
  pullOf,
  remoteOf,
  type TransferNode,
  until,
  withNodes,
} from './transfer-node.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';

const hello: Hello = {
  protocol: 'vllm-pd-kv',
  version: protocolVersion,
  compatibility_hash: compatibilityHash(layout, 'tiny model, seed 0'),
  nonce: newNonce(),
  engine_id: 'stranger',
  expected_engine_id: 'owner',
};

interface Reply {
  readonly type: FrameType;
  readonly body: Buffer;
}

/** Goes through the handshake, with this key. */
const enter: unique symbol = Symbol('enter');
/** Replies are sealed where the connection has got so far, bytes are sent as they are. */
type Part = Buffer | Reply | typeof enter;

/** What an end by hand seals and opens. */
interface Seals {
  readonly sent: FrameSeal;
  readonly received: FrameSeal;
  readonly reads: FrameSeal;
}

function sealsOf(own: 'owner' | 'reader', key: string | null, hello: Buffer, ownerNonce: string): Seals {
  const seal = (from: Sender) => new FrameSeal(from, key, { hello, ownerNonce });
  return { sent: seal(own), received: seal(own === 'owner' ? 'reader' : 'owner'), reads: seal('reads') };
}

/** Says hello as `own` does and answers the challenge, as long as the owner asks; returns frames without their seals. */
function enterAs(
  socket: Socket,
  own: Hello,
  key: string | null,
): { readonly answer: (reply: Reply) => Reply; readonly seal: (reply: Reply) => Buffer } {
  const body = encodeJson(own);
  socket.write(encodeFrame('hello', body));
  let seals: Seals | null = null;
  const answer = (reply: Reply) => {
    if (reply.type === 'refuse') return reply;
    if (reply.type !== 'challenge') return seals!.received.open(reply);
    const exchange = { hello: body, ownerNonce: decodeChallenge(reply.body).nonce };
    seals = sealsOf('reader', key, body, exchange.ownerNonce);
    socket.write(encodeFrame('proof', encodeJson({ proof: proofOf('reader', key, exchange) })));
    return reply;
  };
  return { answer, seal: (reply) => seals!.sent.seal(reply.type, reply.body) };
}

/** A reader's handshake by hand; resolves to what the owner said last: a welcome or a refusal. */
async function greet(node: TransferNode, own: Hello, key: string | null = null): Promise<Reply> {
  const socket = connect({ host: node.agent.host, port: node.agent.port });
  const decoder = new FrameDecoder(2 ** 24);
  try {
    return await new Promise((resolve, reject) => {
      socket.once('error', reject);
      socket.once('close', () => reject(new Error('closed without an answer')));
      const { answer } = enterAs(socket, own, key);
      socket.on('data', (chunk) => {
        for (const sealed of decoder.push(chunk)) {
          const frame = answer(sealed);
          if (frame.type !== 'challenge') resolve(frame);
        }
      });
    });
  } finally {
    socket.destroy();
  }
}

/**
 * Sends bytes to the node and collects the frames that come back until it closes the connection; what stands behind
 * `enter` is sent when the node has said welcome.
 */
async function sendUntilClosed(node: TransferNode, ...parts: Part[]): Promise<readonly Reply[]> {
  const socket = connect({ host: node.agent.host, port: node.agent.port });
  const decoder = new FrameDecoder(2 ** 24);
  const replies: Reply[] = [];
  const at = parts.indexOf(enter);
  let entering: ReturnType<typeof enterAs> | null = null;
  const send = (part: Part, encode: (frame: Reply) => Buffer) => {
    if (part !== enter) socket.write(Buffer.isBuffer(part) ? part : encode(part));
  };
  socket.on('data', (chunk) => {
    for (const sealed of decoder.push(chunk)) {
      const reply = entering?.answer(sealed) ?? sealed;
      if (reply.type === 'challenge') continue;
      replies.push(reply);
      if (reply.type === 'welcome') for (const part of parts.slice(at + 1)) send(part, entering!.seal);
    }
  });
  socket.on('error', () => {});
  const givenUp = setTimeout(() => socket.destroy(new Error('it was not closed')), 4000);
  if (at >= 0) entering = enterAs(socket, hello, null);
  else for (const part of parts) send(part, ({ type, body }) => encodeFrame(type, body));
  const startedAtMs = performance.now();
  await once(socket, 'close').catch(() => {});
  clearTimeout(givenUp);
  assert.ok(performance.now() - startedAtMs < 4000, 'the node closed the connection');
  return replies;
}

const greeting: Reply = { type: 'hello', body: encodeJson(hello) };
const notif: Reply = {
  type: 'notif',
  body: encodeNotif({ seq: 1, requestId: 'held', numBlocks: 1, numUnseenBytes: 0 }),
};
const read = (blockIds: number[]): Reply => ({
  type: 'read',
  body: encodeRead({
    seq: 1,
    numLanes: 1,
    requestId: 'held',
    blockIds,
    hashes: blockIds.map((id) => hashOf(`block ${id}`)),
  }),
});
const noise = Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * 7919 + 13) % 251));

const intrusions: [name: string, parts: Part[], numReplies: number][] = [
  ['noise', [noise], 0],
  ['an HTTP request', [Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')], 0],
  ['a frame of 4 GiB', [Buffer.from('ffffffff01', 'hex'), noise], 0],
  ['a frame above the limit before the hello, by its header alone', [frameHeader('hello', 64 * 1024)], 0],
  ['a read before the hello', [read([1])], 1],
  ['a notification before the hello', [encodeFrame('notif', Buffer.from('xxxx{}'))], 1],
  ['a hello that is not JSON', [encodeFrame('hello', Buffer.from('not json'))], 0],
  ['a hello of another protocol', [encodeFrame('hello', Buffer.from('{"protocol":"redis"}'))], 0],
  ['noise behind the hello', [enter, noise], 1],
  ['a second hello', [enter, greeting], 1],
  ['a frame above the limit behind the hello', [enter, frameHeader('read', 8 * 2 ** 20), noise], 1],
  ['a read that is not on a data connection', [enter, read([1])], 1],
  [
    'a second wish for data connections',
    [enter, { type: 'open', body: encodeOpen(1) }, { type: 'open', body: encodeOpen(2) }],
    2,
  ],
  ['a notification that is not JSON', [enter, { type: 'notif', body: Buffer.from('xxxx{') }], 1],
  ['a reply nobody asked for', [enter, { type: 'opened', body: Buffer.alloc(12) }], 1],
  ['a notification without a seal', [enter, encodeFrame('notif', notif.body)], 1],
  [
    'a notification with a seal of zeros',
    [enter, encodeFrame('notif', Buffer.concat([notif.body, Buffer.alloc(16)]))],
    1,
  ],
  ['a read behind the hello, without a proof', [greeting, read([1])], 1],
  ['a proof that is none', [greeting, encodeFrame('proof', encodeJson({ proof: 'f'.repeat(64) }))], 1],
];

for (const [name, parts, numReplies] of intrusions) {
  test(`${name} closes that connection and no other`, async () => {
    await withNodes({ kind: 'tcp' }, { kind: 'tcp' }, async (owner, reader) => {
      fillBlock(owner.pool, 1);
      const pull = pullOf(remoteOf(owner.agent, 'owner'), [1]);
      await reader.agent.read(pull, reader.pool);
      const replies = await sendUntilClosed(owner, ...parts);
      assert.is(replies.length, numReplies);
      assert.equal([...(await reader.agent.read(pull, reader.pool)).valid], [1], 'the reader is served on');
      assert.equal(owner.notifs, []);
      assert.is(owner.agent.bytesSent, 2 * owner.pool.blockBytes, 'the stranger got no block');
    });
  });
}

test('a hello is answered with what the reader needs, or with the reason why not', async () => {
  await withNodes({}, {}, async (owner) => {
    const welcome = await greet(owner, hello);
    assert.equal(decodeWelcome(welcome.body), {
      compatibility_hash: hello.compatibility_hash,
      engine_id: 'owner',
      host_identity: hostIdentity(),
      pid: process.pid,
      pool_fd: owner.pool.fd,
      num_blocks: 64,
    });
    for (const [change, sentence] of [
      [{ version: 99 }, /protocol version 6 but received 99/],
      [{ expected_engine_id: 'earlier' }, /Expected engine earlier but this is owner/],
      [{ compatibility_hash: 'other' }, /of the two nodes differ/],
    ] as const) {
      const refusal = await greet(owner, { ...hello, ...change });
      assert.is(refusal.type, 'refuse');
      assert.match(decodeRefusal(refusal.body), sentence);
    }
  });
});

test('a frame of any type after the welcome is cut off when the connection is: no partial effect', async () => {
  await withNodes({}, {}, async (owner) => {
    const socket = connect({ host: owner.agent.host, port: owner.agent.port });
    const { answer, seal } = enterAs(socket, hello, null);
    const decoder = new FrameDecoder(2 ** 24);
    socket.on('data', (chunk) => {
      for (const frame of decoder.push(chunk)) {
        if (answer(frame).type === 'welcome')
          socket.end(Buffer.concat([seal(notif), seal(notif).subarray(0, -1)]));
      }
    });
    await once(socket, 'close');
    assert.equal(owner.notifs, [{ requestId: 'held', numBlocks: 1 }]);
  });
});

const secret = 'a key of more than sixteen characters';

// Fails without the comparison of proofs in greeting.ts.
test('a reader that does not know the key learns nothing and reads nothing', async () => {
  await withNodes({ key: secret, kind: 'tcp' }, { key: secret, kind: 'tcp' }, async (owner, reader) => {
    fillBlock(owner.pool, 1);
    for (const key of [null, '', 'another key of sixteen characters']) {
      const refusal = await greet(owner, hello, key);
      assert.is(refusal.type, 'refuse');
      assert.is(decodeRefusal(refusal.body), 'The KV transfer keys of the two nodes differ.');
      // Not even whether that engine is here.
      assert.equal(await greet(owner, { ...hello, expected_engine_id: 'another' }, key), refusal);
    }
    assert.is((await greet(owner, hello, secret)).type, 'welcome');
    const pull = pullOf(remoteOf(owner.agent, 'owner'), [1]);
    assert.equal([...(await reader.agent.read(pull, reader.pool)).valid], [1]);
  });
});

// Fails when the nonce of authentication.ts is a constant.
test('what a reader once proved is worth nothing on another connection', async () => {
  await withNodes({ key: secret }, {}, async (owner) => {
    const nonces = new Set<string>();
    let seen: Buffer | null = null;
    for (const isReplay of [false, true]) {
      const socket = connect({ host: owner.agent.host, port: owner.agent.port });
      const decoder = new FrameDecoder(2 ** 24);
      const body = encodeJson(hello);
      socket.write(encodeFrame('hello', body));
      const last = await new Promise<Reply>((resolve) => {
        socket.on('data', (chunk) => {
          for (const frame of decoder.push(chunk)) {
            if (frame.type !== 'challenge') return resolve(frame);
            const { nonce } = decodeChallenge(frame.body);
            nonces.add(nonce);
            seen ??= encodeFrame(
              'proof',
              encodeJson({ proof: proofOf('reader', secret, { hello: body, ownerNonce: nonce }) }),
            );
            socket.write(seen);
          }
        });
      });
      socket.destroy();
      assert.is(last.type, isReplay ? 'refuse' : 'welcome');
    }
    assert.is(nonces.size, 2);
  });
});

// Fails without the comparison of proofs in peer-connection.ts.
test('an owner that does not know the key is not believed, nor told a proof', async () => {
  const told: string[] = [];
  const answer = answerRead(goodReply);
  const listen: Answer = (socket, frame, ...rest) => {
    told.push(frame.type);
    answer(socket, frame, ...rest);
  };
  await withImpostor(listen, async (address) => {
    await withNodes({}, { kind: 'tcp', key: secret }, async (_, reader) => {
      const error = await reader.agent
        .read(pullOf(remoteOf(address, 'owner'), [1]), reader.pool)
        .catch((e: Error) => e);
      assert.match(String(error), /The KV transfer keys of the two nodes differ/);
      assert.equal(told, ['hello']);
    });
  });
});

// Fails when a proof says the same whoever makes it: the owner would be answered with its own.
test('an owner is not believed for repeating what a reader could say', async () => {
  const answer = (socket: Socket, { type, body }: Reply) => {
    const nonce = newNonce();
    const proof = proofOf('reader', secret, { hello: body, ownerNonce: nonce });
    if (type === 'hello') socket.write(encodeFrame('challenge', encodeJson({ nonce, proof })));
  };
  await withImpostor(answer, async (address) => {
    await withNodes({}, { kind: 'tcp', key: secret }, async (_, reader) => {
      const pull = pullOf(remoteOf(address, 'owner'), [1]);
      const error = await reader.agent.read(pull, reader.pool).catch((e: Error) => e);
      assert.match(String(error), /The KV transfer keys of the two nodes differ/);
    });
  });
});

test('over tcp only blocks under the hold that is named are read, and only while it stands', async () => {
  const holds = { mine: [2, 1], 'of-another': [3] };
  await withNodes({ kind: 'tcp', holds }, { kind: 'tcp' }, async (owner, reader) => {
    for (const id of [1, 2, 3, 4]) fillBlock(owner.pool, id);
    const readAs = async (requestId: string, blockIds: number[]) => {
      const remote = { ...remoteOf(owner.agent, 'owner'), requestId };
      return [...(await reader.agent.read(pullOf(remote, blockIds), reader.pool)).valid];
    };
    assert.equal(await readAs('mine', [1, 2]), [1, 1]);
    assert.equal(await readAs('mine', [3]), [0], 'of another hold');
    assert.equal(await readAs('mine', [4]), [0], 'cached, and held for nobody');
    assert.equal(await readAs('nobody', [1]), [0], 'a hold that never was');
    assert.equal(await readAs('mine', [1, 3]), [0, 0], 'one of them of another hold');
    owner.agent.holds.end('mine');
    assert.equal(await readAs('mine', [1, 2]), [0, 0], 'a hold that has ended');
    owner.agent.holds.grant('mine', [1, 2], 30);
    assert.equal(await readAs('mine', [2]), [1]);
    await new Promise((resolve) => setTimeout(resolve, 40));
    assert.equal(await readAs('mine', [1, 2]), [0, 0], 'a hold whose time is over');
    assert.is(owner.agent.bytesSent, 3 * owner.pool.blockBytes);
  });
});

test('a stranger that does not finish the handshake is closed, however it dawdles', async () => {
  await withNodes({}, {}, async (owner) => {
    const socket = connect({ host: owner.agent.host, port: owner.agent.port });
    socket.on('error', () => {});
    socket.resume();
    const whole = encodeFrame('hello', encodeJson(hello));
    let at = 0;
    const drip = setInterval(() => socket.write(whole.subarray(at, ++at)), 100);
    try {
      // Closed with bytes unread, which is a reset.
      await once(socket, 'close').catch(() => {});
      assert.ok(at < whole.length, 'it was closed before its hello was complete');
    } finally {
      clearInterval(drip);
    }
  });
});

test('strangers cannot open connections without end, and who is connected is served on meanwhile', async () => {
  await withNodes({ kind: 'tcp' }, { kind: 'tcp' }, async (owner, reader) => {
    fillBlock(owner.pool, 1);
    const pull = pullOf(remoteOf(owner.agent, 'owner'), [1]);
    await reader.agent.read(pull, reader.pool);
    const open = new Set<Socket>();
    let numRefused = 0;
    try {
      // Twice what is allowed at most, in less time than a stranger has for its hello.
      for (let i = 0; i < 2048 && numRefused === 0; i += 1) {
        const socket = connect({ host: owner.agent.host, port: owner.agent.port });
        open.add(socket);
        socket.on('error', () => {});
        socket.once('close', () => {
          numRefused += 1;
        });
        await once(socket, 'connect');
      }
      while (numRefused === 0) await new Promise((resolve) => setTimeout(resolve, 10));
      // Some were on their way when the first one was refused.
      assert.ok(open.size >= 1024 && open.size < 2048, `${open.size} connections were opened`);
      assert.equal([...(await reader.agent.read(pull, reader.pool)).valid], [1]);
    } finally {
      for (const socket of open) socket.destroy();
    }
  });
});

/** `socket`: the side channel's, or that of a data connection. */
type Answer = (socket: Socket, frame: Reply, dataPort: number) => void;

async function listening(serve: (socket: Socket) => void) {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    serve(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const close = async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, 'close');
  };
  return { port: (server.address() as { port: number }).port, close };
}

/** A peer by hand, side channel and data connections: answers frames as `answer` says. */
async function withImpostor(
  answer: Answer,
  use: (address: { host: string; port: number }) => Promise<void>,
): Promise<void> {
  const data = await listening((socket) => {
    socket.once('data', (greeting) => {
      assert.is(greeting.toString('hex', 0, 32), secretOfImpostor);
      const decoder = new FrameDecoder(2 ** 20);
      socket.on('data', (chunk) => {
        for (const frame of decoder.push(chunk)) answer(socket, frame, data.port);
      });
      socket.write(Buffer.of(1));
    });
  });
  const control = await listening((socket) => {
    const decoder = new FrameDecoder(2 ** 20);
    socket.on('data', (chunk) => {
      for (const frame of decoder.push(chunk)) answer(socket, frame, data.port);
    });
  });
  try {
    await use({ host: '127.0.0.1', port: control.port });
  } finally {
    await control.close();
    await data.close();
  }
}

const secretOfImpostor = 'ab'.repeat(32);

const checkOf = (...parts: Buffer[]) => bigEndian(loadNative().crc32c(Buffer.concat(parts)));

const bigEndian = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};

/** seq, n, what is offered, bytes, what is valid, with the checksums of an honest peer; `bytes` are those of each block. */
const replyOf = (
  seq: number,
  n: number,
  offered: number[],
  bytes: Buffer,
  valid: number[],
  hash = hashOf('block 1'),
) => {
  const head = Buffer.concat([bigEndian(seq), bigEndian(n), Buffer.from(offered)]);
  const crcs = offered.map((flag) => (flag ? checkOf(Buffer.from(hash, 'hex'), bytes) : bigEndian(0)));
  const tail = Buffer.concat([Buffer.from(valid), ...crcs]);
  const blocks = Array(Math.max(1, offered.length)).fill(bytes);
  return Buffer.concat([head, checkOf(head), ...blocks, tail, checkOf(head, tail)]);
};

/** One valid block, which only a peer that passes for the right one gets to send. */
const goodReply = (seq: number) => replyOf(seq, 1, [1], Buffer.alloc(4096), [1]);

const welcomeOf = (engineId: string, compatibility = hello.compatibility_hash) =>
  encodeJson({
    compatibility_hash: compatibility,
    engine_id: engineId,
    host_identity: 'elsewhere',
    pid: 1,
    pool_fd: 3,
    num_blocks: 64,
  });

/**
 * Lets the reader in as a node without a key does, and answers its reads, the number of which it gets, on the data
 * connection that they name.
 */
function answerRead(
  reply: (seq: number, lane: Socket, control: Socket, hash: string) => Buffer | null,
  engineId = 'owner',
  compatibility = hello.compatibility_hash,
): Answer {
  const known = new WeakMap<Socket, Seals>();
  let reader: Socket;
  return (socket, frame, dataPort) => {
    if (frame.type === 'read') {
      const { seq, hashes } = decodeRead(known.get(reader)!.reads.open(frame).body);
      const bytes = reply(seq, socket, reader, hashes[0]!);
      if (bytes) socket.write(bytes);
      return;
    }
    if (frame.type === 'hello') {
      reader = socket;
      const ownerNonce = newNonce();
      known.set(socket, sealsOf('owner', null, frame.body, ownerNonce));
      const proof = proofOf('owner', null, { hello: frame.body, ownerNonce });
      socket.write(encodeFrame('challenge', encodeJson({ nonce: ownerNonce, proof })));
      return;
    }
    const { sent, received } = known.get(socket)!;
    if (frame.type === 'proof') {
      socket.write(sent.seal('welcome', welcomeOf(engineId, compatibility)));
      return;
    }
    const { type, body } = received.open(frame);
    if (type === 'open') {
      const address = { port: dataPort, secret: secretOfImpostor };
      socket.write(sent.seal('opened', encodeOpened(body.readUInt32BE(0), address)));
    }
  };
}

const lies: [name: string, answer: Answer, mayWrite?: boolean][] = [
  ['answers the hello with noise', (socket) => socket.write(noise)],
  ['welcomes as another engine', answerRead(goodReply, 'somebody else')],
  ['has another KV shape', answerRead(goodReply, 'owner', 'another hash')],
  ['closes at once', (socket) => socket.destroy()],
  [
    'answers a read on the side channel',
    answerRead((_, __, control) => {
      control.write(noise);
      return null;
    }),
  ],
  ['answers a read with another number', answerRead((seq) => goodReply(seq + 1))],
  [
    'answers a read with more blocks',
    answerRead((seq) => replyOf(seq, 2, [1, 1], Buffer.alloc(4096), [1, 1])),
  ],
  [
    'answers a read with 4 G blocks',
    answerRead((seq) => replyOf(seq, 2 ** 32 - 1, [1], Buffer.alloc(4096), [1])),
  ],
  ['answers a read with noise', answerRead(() => noise)],
  [
    'offers what is neither there nor not',
    answerRead((seq) => replyOf(seq, 1, [2], Buffer.alloc(4096), [1])),
  ],
  ['calls valid what it did not send', answerRead((seq) => replyOf(seq, 1, [0], Buffer.alloc(0), [1]))],
  [
    'ends a data connection instead',
    answerRead((_, lane) => {
      lane.destroy();
      return null;
    }),
  ],
  [
    'ends the side channel instead',
    answerRead((_, __, control) => {
      control.destroy();
      return null;
    }),
  ],
  [
    'dies in the middle of a reply',
    answerRead((seq, lane) => {
      lane.end(goodReply(seq).subarray(0, 1000));
      return null;
    }),
    true,
  ],
  [
    'dies behind the bytes, before it says that they are valid',
    answerRead((seq, lane) => {
      lane.end(goodReply(seq).subarray(0, 8 + 1 + 4 + 4096));
      return null;
    }),
    true,
  ],
];

for (const [name, answer, mayWrite = false] of lies) {
  test(`a peer that ${name} fails the read${mayWrite ? '' : ' and writes nothing'}`, async () => {
    await withImpostor(answer, async (address) => {
      await withNodes({}, { kind: 'tcp' }, async (_, reader) => {
        reader.pool.block(1).fill(77);
        reader.pool.block(2).fill(78);
        try {
          await reader.agent.read(pullOf(remoteOf(address, 'owner'), [1]), reader.pool);
          assert.unreachable();
        } catch (error) {
          assert.ok(error instanceof VllmPdError, String(error));
          assert.is(error.code, 'PEER_FAILED');
        }
        if (!mayWrite) assert.ok(reader.pool.block(1).every((byte) => byte === 77));
        assert.ok(
          reader.pool.block(2).every((byte) => byte === 78),
          'beyond what was asked for',
        );
        assert.is(reader.agent.bytesReceived, 0);
      });
    });
  });
}

test('the same peer, telling the truth, is believed', async () => {
  await withImpostor(answerRead(goodReply), async (address) => {
    await withNodes({}, { kind: 'tcp' }, async (_, reader) => {
      reader.pool.block(1).fill(77);
      const result = await reader.agent.read(pullOf(remoteOf(address, 'owner'), [1]), reader.pool);
      assert.equal([...result.valid], [1]);
      assert.ok(reader.pool.block(1).every((byte) => byte === 0));
    });
  });
});

test('a block that changed while it was sent is invalid, its neighbours are not', async () => {
  const answer = answerRead((seq, _, __, hash) =>
    replyOf(seq, 2, [1, 1], Buffer.alloc(4096, 5), [1, 0], hash),
  );
  await withImpostor(answer, async (address) => {
    await withNodes({}, { kind: 'tcp' }, async (_, reader) => {
      const result = await reader.agent.read(pullOf(remoteOf(address, 'owner'), [1, 2]), reader.pool);
      assert.equal([...result.valid], [1, 0]);
      assert.is(reader.agent.bytesReceived, 4096);
    });
  });
});

test('a read that is given up while its peer says nothing ends at once', async () => {
  await withImpostor(
    answerRead(() => null),
    async (address) => {
      await withNodes({}, { kind: 'tcp' }, async (_, reader) => {
        const abort = new AbortController();
        const startedAtMs = performance.now();
        const timer = setTimeout(() => abort.abort(), 100);
        const pull = pullOf(remoteOf(address, 'owner'), [1]);
        const error = await reader.agent.read(pull, reader.pool, abort.signal).catch((e: VllmPdError) => e);
        clearTimeout(timer);
        assert.is((error as VllmPdError).code, 'PEER_FAILED');
        assert.ok(performance.now() - startedAtMs < 5000, 'long before a stuck connection is given up');
      });
    },
  );
});

test('a peer that accepts and then says nothing is given up when its time is over', async () => {
  const silent = (socket: Socket) => void socket.resume();
  await withImpostor(silent, async (address) => {
    await withNodes({}, { peerTimeoutMs: 150 }, async (_, reader) => {
      const remote = remoteOf(address, 'owner');
      const error = await reader.agent.read(pullOf(remote, [1]), reader.pool).catch((e: VllmPdError) => e);
      assert.match((error as VllmPdError).message, 'no answer to the handshake within 150 ms');
      assert.is(await reader.agent.sendNotif(remote, 0), null, 'nor does a notification wait for it');
    });
  });
});

test('a peer that lets one in and never confirms a notification is not waited for', async () => {
  // Nothing else answers a notification.
  await withImpostor(answerRead(goodReply), async (address) => {
    await withNodes({}, { kind: 'tcp', peerTimeoutMs: 150 }, async (_, reader) => {
      assert.is(await reader.agent.sendNotif(remoteOf(address, 'owner'), 1), null);
    });
  });
});

function flipped(bytes: Buffer, bit: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[bit >> 3]! ^= 1 << (bit & 7);
  return copy;
}

// Fails without the comparison of checksums, or of either check, in native/data_lanes.cc.
test('a bit that flips on a data connection never makes a block valid', async () => {
  const headBits = 8 * (8 + 1 + 4);
  const bodyBits = 8 * 4096;
  const numBits = 8 * goodReply(1).length;
  const outside = [...Array(numBits).keys()].filter((bit) => bit < headBits || bit >= headBits + bodyBits);
  const inside = [0, 1, 777, 16_384, 30_001, bodyBits - 1].map((bit) => headBits + bit);
  const bits = [...outside.filter((bit) => bit % 3 === 0), ...inside];
  let bit = 0;
  let numDamaged = 0;
  await withImpostor(
    answerRead((seq) => flipped(goodReply(seq), bit)),
    async (address) => {
      await withNodes({}, { kind: 'tcp' }, async (_, reader) => {
        for (bit of bits) {
          const pull = pullOf(remoteOf(address, 'owner'), [1]);
          const result = await reader.agent.read(pull, reader.pool).catch((error) => error as VllmPdError);
          if (result instanceof Error) assert.is(result.code, 'PEER_FAILED');
          else assert.equal([...result.valid], [0], `bit ${bit}`);
          if (!(result instanceof Error)) numDamaged += 1;
        }
        assert.is(numDamaged, inside.length, 'those in a block cost that block and not the connection');
        assert.is(reader.agent.numDamagedBlocks, inside.length);
        assert.is(reader.agent.bytesReceived, 0);
      });
    },
  );
});

// Fails when the checksum leaves the hash out.
test('bytes sent for another block than the one that was asked for are not valid', async () => {
  const other = answerRead((seq) => replyOf(seq, 1, [1], Buffer.alloc(4096), [1], hashOf('block 2')));
  await withImpostor(other, async (address) => {
    await withNodes({}, { kind: 'tcp' }, async (_, reader) => {
      const result = await reader.agent.read(pullOf(remoteOf(address, 'owner'), [1]), reader.pool);
      assert.equal([...result.valid], [0]);
    });
  });
});

test('nothing is left open behind nodes that read each other over tcp', async () => {
  const descriptors = () => readdirSync('/proc/self/fd').length;
  const threads = () => readdirSync('/proc/self/task').length;
  const round = () =>
    withNodes({ kind: 'tcp' }, { kind: 'tcp' }, async (owner, reader) => {
      fillBlock(owner.pool, 1);
      await reader.agent.read(pullOf(remoteOf(owner.agent, 'owner'), [1]), reader.pool);
    });
  await round();
  const before = [descriptors(), threads()] as const;
  for (let i = 0; i < 5; i += 1) await round();
  await until(
    () => descriptors() <= before[0] && threads() <= before[1] + 2,
    'descriptors and threads to go',
  );
});

test('a peer on another host is read over tcp by auto, and not at all by shm', async () => {
  const answer = answerRead((seq) => replyOf(seq, 1, [0], Buffer.alloc(0), [0]));
  await withImpostor(answer, async (address) => {
    const pull = pullOf(remoteOf(address, 'owner'), [1]);
    await withNodes({ kind: 'shm' }, { kind: 'auto' }, async (forced, auto) => {
      assert.equal([...(await auto.agent.read(pull, auto.pool)).valid], [0]);
      assert.is(auto.agent.transportOf('owner'), 'tcp');
      try {
        await forced.agent.read(pull, forced.pool);
        assert.unreachable();
      } catch (error) {
        assert.match((error as Error).message, /pool of process 1 cannot be mapped/);
      }
    });
  });
});

test.run();
