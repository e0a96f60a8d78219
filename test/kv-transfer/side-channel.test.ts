// Whatever reaches the side channel from a stranger closes that connection and nothing else.
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import { newNonce, proofOf } from '../../src/kv-transfer/authentication.js';
import { encodeFrame, FrameDecoder, type FrameType, frameHeader } from '../../src/kv-transfer/frames.js';
import { compatibilityHash, hostIdentity } from '../../src/kv-transfer/handshake.js';
import {
  decodeChallenge,
  decodeRefusal,
  decodeWelcome,
  encodeBlocksHead,
  encodeJson,
  encodeNotif,
  encodeRead,
  type Hello,
  protocolVersion,
} from '../../src/kv-transfer/messages.js';
import {
  fillBlock,
  hashOf,
  layout,
  nativeMissing,
  pullOf,
  remoteOf,
  type TransferNode,
  withNodes,
} from './transfer-node.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';
const missing = nativeMissing();

function nativeTest(name: string, run: () => Promise<void>): void {
  test(name, async () => {
    if (missing) console.log(`skipped: ${missing}`);
    else await run();
  });
}

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
type Part = Buffer | typeof enter;

/** Says hello as `own` does and answers the challenge, as long as the owner asks. */
function enterAs(socket: Socket, own: Hello, key: string | null): (reply: Reply) => void {
  const body = encodeJson(own);
  socket.write(encodeFrame('hello', body));
  return ({ type, body: challenge }) => {
    if (type !== 'challenge') return;
    const exchange = { hello: body, ownerNonce: decodeChallenge(challenge).nonce };
    socket.write(encodeFrame('proof', encodeJson({ proof: proofOf('reader', key, exchange) })));
  };
}

/** A reader's handshake by hand; resolves to what the owner said last: a welcome or a refusal. */
async function greet(node: TransferNode, own: Hello, key: string | null = null): Promise<Reply> {
  const socket = connect({ host: node.agent.host, port: node.agent.port });
  const decoder = new FrameDecoder(2 ** 24);
  try {
    return await new Promise((resolve, reject) => {
      socket.once('error', reject);
      socket.once('close', () => reject(new Error('closed without an answer')));
      const answer = enterAs(socket, own, key);
      socket.on('data', (chunk) => {
        for (const frame of decoder.push(chunk)) {
          answer(frame);
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
  const isBytes = (part: Part): part is Buffer => part !== enter;
  let answer: ((reply: Reply) => void) | null = null;
  socket.on('data', (chunk) => {
    for (const reply of decoder.push(chunk)) {
      answer?.(reply);
      if (reply.type === 'challenge') continue;
      replies.push(reply);
      if (reply.type === 'welcome')
        for (const part of parts.slice(at + 1).filter(isBytes)) socket.write(part);
    }
  });
  socket.on('error', () => {});
  const givenUp = setTimeout(() => socket.destroy(new Error('it was not closed')), 4000);
  if (at >= 0) answer = enterAs(socket, hello, null);
  else for (const part of parts.filter(isBytes)) socket.write(part);
  const startedAtMs = performance.now();
  await once(socket, 'close').catch(() => {});
  clearTimeout(givenUp);
  assert.ok(performance.now() - startedAtMs < 4000, 'the node closed the connection');
  return replies;
}

const greeting = encodeFrame('hello', encodeJson(hello));
const read = (blockIds: number[]) =>
  encodeFrame(
    'read',
    encodeRead({
      seq: 1,
      requestId: 'held',
      blockIds,
      hashes: blockIds.map((id) => hashOf(`block ${id}`)),
    }),
  );
const noise = Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * 7919 + 13) % 251));

const intrusions: [name: string, parts: Part[], numReplies: number][] = [
  ['noise', [noise], 0],
  ['an HTTP request', [Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')], 0],
  ['a frame of 4 GiB', [Buffer.from('ffffffff01', 'hex'), noise], 0],
  ['a frame above the limit before the hello', [frameHeader('hello', 64 * 1024), Buffer.alloc(64 * 1024)], 0],
  ['a read before the hello', [read([1])], 1],
  ['a notification before the hello', [encodeFrame('notif', Buffer.from('xxxx{}'))], 1],
  ['a hello that is not JSON', [encodeFrame('hello', Buffer.from('not json'))], 0],
  ['a hello of another protocol', [encodeFrame('hello', Buffer.from('{"protocol":"redis"}'))], 0],
  ['noise behind the hello', [enter, noise], 1],
  ['a second hello', [enter, greeting], 1],
  ['a frame above the limit behind the hello', [enter, frameHeader('read', 8 * 2 ** 20), noise], 1],
  ['a read outside the pool', [enter, read([1, 64])], 1],
  ['a read of nothing', [enter, read([])], 1],
  ['a notification that is not JSON', [enter, encodeFrame('notif', Buffer.from('xxxx{'))], 1],
  ['a reply nobody asked for', [enter, encodeFrame('blocks', Buffer.alloc(12))], 1],
  ['a read behind the hello, without a proof', [greeting, read([1])], 1],
  ['a proof that is none', [greeting, encodeFrame('proof', encodeJson({ proof: 'f'.repeat(64) }))], 1],
];

for (const [name, parts, numReplies] of intrusions) {
  nativeTest(`${name} closes that connection and no other`, async () => {
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

nativeTest('a hello is answered with what the reader needs, or with the reason why not', async () => {
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
      [{ version: 99 }, /protocol version 2 but received 99/],
      [{ expected_engine_id: 'earlier' }, /Expected engine earlier but this is owner/],
      [{ compatibility_hash: 'other' }, /of the two nodes differ/],
    ] as const) {
      const refusal = await greet(owner, { ...hello, ...change });
      assert.is(refusal.type, 'refuse');
      assert.match(decodeRefusal(refusal.body), sentence);
    }
  });
});

nativeTest(
  'a frame of any type after the welcome is cut off when the connection is: no partial effect',
  async () => {
    await withNodes({}, {}, async (owner) => {
      const notif = { seq: 1, requestId: 'held', numBlocks: 1, numUnseenBytes: 0 };
      const whole = encodeFrame('notif', encodeNotif(notif));
      const socket = connect({ host: owner.agent.host, port: owner.agent.port });
      const answer = enterAs(socket, hello, null);
      const decoder = new FrameDecoder(2 ** 24);
      socket.on('data', (chunk) => {
        for (const frame of decoder.push(chunk)) {
          answer(frame);
          if (frame.type !== 'welcome') continue;
          socket.end(Buffer.concat([whole, whole.subarray(0, whole.length - 1)]));
        }
      });
      await once(socket, 'close');
      assert.equal(owner.notifs, [{ requestId: 'held', numBlocks: 1 }]);
    });
  },
);

const secret = 'a key of more than sixteen characters';

// Fails without the comparison of proofs in greeting.ts.
nativeTest('a reader that does not know the key learns nothing and reads nothing', async () => {
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
nativeTest('what a reader once proved is worth nothing on another connection', async () => {
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
nativeTest('an owner that does not know the key is not believed, nor told a proof', async () => {
  const told: string[] = [];
  const answer = answerRead(goodReply);
  const listen = (socket: Socket, frame: Reply) => {
    told.push(frame.type);
    answer(socket, frame);
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
nativeTest('an owner is not believed for repeating what a reader could say', async () => {
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

// Fails without `isHeld` in the server's #serveRead.
nativeTest(
  'over tcp only blocks under the hold that is named are read, and only while it stands',
  async () => {
    const holds = new Map([
      ['mine', new Set([1, 2])],
      ['of-another', new Set([3])],
    ]);
    const heldBlocks = (id: string) => holds.get(id) ?? null;
    await withNodes({ kind: 'tcp', heldBlocks }, { kind: 'tcp' }, async (owner, reader) => {
      for (const id of [1, 2, 3, 4]) fillBlock(owner.pool, id);
      const readAs = async (requestId: string, blockIds: number[]) => {
        const remote = { ...remoteOf(owner.agent, 'owner'), requestId };
        return [...(await reader.agent.read(pullOf(remote, blockIds), reader.pool)).valid];
      };
      assert.equal(await readAs('mine', [1, 2]), [1, 1]);
      assert.equal(await readAs('mine', [3]), [0], 'of another hold');
      assert.equal(await readAs('mine', [4]), [0], 'cached, and held for nobody');
      assert.equal(await readAs('nobody', [1]), [0], 'a hold that never was');
      holds.delete('mine');
      assert.equal(await readAs('mine', [1, 2]), [0, 0], 'a hold that has ended');
      assert.is(owner.agent.bytesSent, 2 * owner.pool.blockBytes);
    });
  },
);

nativeTest('a stranger that does not finish the handshake is closed, however it dawdles', async () => {
  await withNodes({}, {}, async (owner) => {
    const socket = connect({ host: owner.agent.host, port: owner.agent.port });
    socket.on('error', () => {});
    socket.resume();
    const whole = encodeFrame('hello', encodeJson(hello));
    let at = 0;
    const drip = setInterval(() => socket.write(whole.subarray(at, ++at)), 100);
    try {
      await once(socket, 'close');
      assert.ok(at < whole.length, 'it was closed before its hello was complete');
    } finally {
      clearInterval(drip);
    }
  });
});

/** A listener that greets like the engine it is asked for and then answers as `answer` says. */
async function withImpostor(
  answer: (socket: Socket, frame: Reply) => void,
  use: (address: { host: string; port: number }) => Promise<void>,
): Promise<void> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    const decoder = new FrameDecoder(2 ** 20);
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      for (const frame of decoder.push(chunk)) answer(socket, frame);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  try {
    await use({ host: '127.0.0.1', port });
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, 'close');
  }
}

/** One valid block, which only a peer that passes for the right one gets to send. */
const goodReply = encodeFrame(
  'blocks',
  Buffer.concat([encodeBlocksHead(1, new Uint8Array([1])), Buffer.alloc(4096)]),
);

/** Answers a hello as a node without a key does. */
const challengeFor = (helloBody: Buffer) => {
  const nonce = newNonce();
  const proof = proofOf('owner', null, { hello: helloBody, ownerNonce: nonce });
  return encodeFrame('challenge', encodeJson({ nonce, proof }));
};

const welcomeOf = (engineId: string, compatibility = hello.compatibility_hash) =>
  encodeFrame(
    'welcome',
    encodeJson({
      compatibility_hash: compatibility,
      engine_id: engineId,
      host_identity: 'elsewhere',
      pid: 1,
      pool_fd: 3,
      num_blocks: 64,
    }),
  );

const lies: [name: string, answer: (socket: Socket, frame: Reply) => void][] = [
  ['answers the hello with noise', (socket) => socket.write(noise)],
  ['welcomes as another engine', answerRead(goodReply, 'somebody else')],
  ['has another KV shape', answerRead(goodReply, 'owner', 'another hash')],
  ['closes at once', (socket) => socket.destroy()],
  ['answers a read with a frame too long', answerRead(frameHeader('blocks', 2 ** 30))],
  ['answers a read nobody asked', answerRead(encodeFrame('blocks', Buffer.from('0000006300000001', 'hex')))],
  ['answers a read with an ack', answerRead(encodeFrame('ack', Buffer.from('00000001', 'hex')))],
  [
    'sends fewer bytes than it says',
    answerRead(encodeFrame('blocks', Buffer.from('000000010000000101', 'hex'))),
  ],
  [
    'dies in the middle of a reply',
    (socket, frame) => {
      if (frame.type === 'hello') socket.write(challengeFor(frame.body));
      else if (frame.type === 'proof') socket.write(welcomeOf('owner'));
      else socket.end(Buffer.concat([frameHeader('blocks', 4096 + 9), Buffer.alloc(1000)]));
    },
  ],
];

function answerRead(reply: Buffer, engineId = 'owner', compatibility = hello.compatibility_hash) {
  return (socket: Socket, frame: Reply) => {
    if (frame.type === 'hello') socket.write(challengeFor(frame.body));
    else if (frame.type === 'proof') socket.write(welcomeOf(engineId, compatibility));
    else socket.write(reply);
  };
}

for (const [name, answer] of lies) {
  nativeTest(`a peer that ${name} fails the read and writes nothing`, async () => {
    await withImpostor(answer, async (address) => {
      await withNodes({}, { kind: 'tcp' }, async (_, reader) => {
        reader.pool.block(1).fill(77);
        try {
          await reader.agent.read(pullOf(remoteOf(address, 'owner'), [1]), reader.pool);
          assert.unreachable();
        } catch (error) {
          assert.ok(error instanceof VllmPdError, String(error));
          assert.is(error.code, 'PEER_FAILED');
        }
        assert.ok(reader.pool.block(1).every((byte) => byte === 77));
        assert.is(reader.agent.bytesReceived, 0);
      });
    });
  });
}

nativeTest('the same peer, telling the truth, is believed', async () => {
  await withImpostor(answerRead(goodReply), async (address) => {
    await withNodes({}, { kind: 'tcp' }, async (_, reader) => {
      reader.pool.block(1).fill(77);
      const result = await reader.agent.read(pullOf(remoteOf(address, 'owner'), [1]), reader.pool);
      assert.equal([...result.valid], [1]);
      assert.ok(reader.pool.block(1).every((byte) => byte === 0));
    });
  });
});

nativeTest('a peer on another host is read over tcp by auto, and not at all by shm', async () => {
  const answer = answerRead(encodeFrame('blocks', Buffer.from('000000010000000100', 'hex')));
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
