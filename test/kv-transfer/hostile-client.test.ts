// A stranger that throws noise and damaged handshakes at a node's ports: it is served on, and keeps no descriptor or thread.
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { newNonce, proofOf } from '../../src/kv-transfer/authentication.js';
import { FrameSeal } from '../../src/kv-transfer/frame-seal.js';
import { encodeFrame, FrameDecoder } from '../../src/kv-transfer/frames.js';
import { compatibilityHash } from '../../src/kv-transfer/handshake.js';
import {
  type DataAddress,
  decodeChallenge,
  decodeOpened,
  encodeJson,
  encodeNotif,
  encodeOpen,
  protocolVersion,
} from '../../src/kv-transfer/messages.js';
import { layout, pullOf, remoteOf, startNode } from './transfer-node.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';
const numAttacks = 400;
const numAtOnce = 16;

/** What a stranger does, step by step, and how each step's bytes are damaged. */
interface Attack {
  readonly kind: 'noise' | 'hello' | 'proof' | 'sealed' | 'data noise' | 'data secret';
  readonly noise: Uint8Array;
  /** Bits of what is sent that are flipped, and how much of it is sent. */
  readonly flips: readonly number[];
  readonly cut: number | null;
  readonly lane: number;
}

const attack: fc.Arbitrary<Attack> = fc.record({
  kind: fc.constantFrom<Attack['kind']>('noise', 'hello', 'proof', 'sealed', 'data noise', 'data secret'),
  noise: fc.uint8Array({ maxLength: 2000, size: 'max' }),
  flips: fc.array(fc.nat(), { maxLength: 3 }),
  cut: fc.option(fc.nat(), { freq: 2 }),
  lane: fc.nat(16 + 2),
});

function damaged(bytes: Buffer, { flips, cut }: Attack): Buffer {
  const changed = Buffer.from(bytes);
  for (const bit of flips) changed[(bit >> 3) % changed.length]! ^= 1 << (bit % 8);
  return cut === null ? changed : changed.subarray(0, cut % changed.length);
}

interface Address {
  readonly host: string;
  readonly port: number;
}

/** Runs `talk`, then waits a moment for what the node makes of it, and hangs up without a farewell. */
async function visit(address: Address, talk: (socket: Socket) => void): Promise<void> {
  const socket = connect(address);
  socket.on('error', () => {});
  socket.once('connect', () => talk(socket));
  setTimeout(() => socket.resetAndDestroy(), 40);
  await once(socket, 'close').catch(() => {});
}

const hello = encodeJson({
  protocol: 'vllm-pd-kv',
  version: protocolVersion,
  compatibility_hash: compatibilityHash(layout, 'tiny model, seed 0'),
  nonce: newNonce(),
  engine_id: 'stranger',
  expected_engine_id: 'owner',
});

/** A reader's handshake; `onWelcome` gets the seal that its frames need, and `onOpened` the data port that it asked for. */
function enter(
  socket: Socket,
  damageProof: (bytes: Buffer) => Buffer,
  onWelcome: (seal: FrameSeal) => void,
  onOpened: (address: DataAddress) => void = () => {},
): void {
  const decoder = new FrameDecoder(2 ** 20);
  let seals: { sent: FrameSeal; received: FrameSeal } | null = null;
  socket.write(encodeFrame('hello', hello));
  socket.on('data', (chunk) => {
    for (const frame of decoder.push(chunk)) {
      if (frame.type === 'challenge') {
        const exchange = { hello, ownerNonce: decodeChallenge(frame.body).nonce };
        seals = {
          sent: new FrameSeal('reader', null, exchange),
          received: new FrameSeal('owner', null, exchange),
        };
        const proof = proofOf('reader', null, exchange);
        socket.write(damageProof(encodeFrame('proof', encodeJson({ proof }))));
      } else if (seals && frame.type !== 'refuse') {
        const { type, body } = seals.received.open(frame);
        if (type === 'welcome') onWelcome(seals.sent);
        if (type === 'opened') onOpened(decodeOpened(body));
      }
    }
  });
}

function sealedFrames(seal: FrameSeal): Buffer {
  return Buffer.concat([
    seal.seal('open', encodeOpen(1)),
    seal.seal('notif', encodeNotif({ seq: 3, requestId: 'held', numBlocks: 1, numUnseenBytes: 0 })),
  ]);
}

async function carryOut(one: Attack, control: Address, data: Address, secret: Buffer): Promise<void> {
  const noise = Buffer.concat([Buffer.of(0), one.noise]);
  if (one.kind === 'noise') return visit(control, (socket) => socket.write(noise));
  if (one.kind === 'hello') {
    const bytes = damaged(encodeFrame('hello', hello), one);
    return visit(control, (socket) => socket.write(Buffer.concat([bytes, noise])));
  }
  if (one.kind === 'proof') {
    const damage = (bytes: Buffer) => Buffer.concat([damaged(bytes, one), noise]);
    return visit(control, (socket) => enter(socket, damage, () => {}));
  }
  if (one.kind === 'sealed') {
    const send = (socket: Socket) => (seal: FrameSeal) => socket.write(damaged(sealedFrames(seal), one));
    return visit(control, (socket) => enter(socket, (bytes) => bytes, send(socket)));
  }
  const greeting = Buffer.concat([secret, Buffer.of(one.lane)]);
  const bytes = one.kind === 'data noise' ? noise : Buffer.concat([damaged(greeting, one), noise]);
  return visit(data, (socket) => socket.write(bytes));
}

const countOf = (child: ChildProcess, what: 'fd' | 'task') =>
  readdirSync(`/proc/${child.pid}/${what}`).length;

/** What connections leave behind goes when their ends are noticed; a machine under load takes its time. */
async function settled(child: ChildProcess, fds: number, threads: number): Promise<void> {
  for (let i = 0; i < 400; i += 1) {
    if (countOf(child, 'fd') <= fds && countOf(child, 'task') <= threads) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const left = `${countOf(child, 'fd')} descriptors of ${fds}, ${countOf(child, 'task')} threads of ${threads}`;
  assert.unreachable(`the node kept something of strangers: ${left}`);
}

async function withTarget(use: (child: ChildProcess, address: Address) => Promise<void>): Promise<void> {
  const child = fork(fileURLToPath(new URL('owner-process.js', import.meta.url)), ['64']);
  try {
    const [address] = (await once(child, 'message')) as [Address];
    await use(child, address);
  } finally {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  }
}

/** All of them, by strangers who know the secret of a session whose reader is there meanwhile. */
async function carryOutAll(attacks: readonly Attack[], control: Address): Promise<void> {
  const guest = connect(control);
  try {
    const { port, secret } = await new Promise<DataAddress>((resolve) =>
      enter(
        guest,
        (bytes) => bytes,
        (seal) => guest.write(seal.seal('open', encodeOpen(1))),
        resolve,
      ),
    );
    const data = { host: control.host, port };
    for (let at = 0; at < attacks.length; at += numAtOnce) {
      const together = attacks.slice(at, at + numAtOnce);
      await Promise.all(together.map((one) => carryOut(one, control, data, Buffer.from(secret, 'hex'))));
    }
  } finally {
    guest.destroy();
  }
}

// Fails when a session's data connections outlive it.
test('noise and damaged handshakes on both ports leave a node as it was', async () => {
  await withTarget(async (child, control) => {
    const reader = await startNode({ engineId: 'reader', kind: 'tcp' });
    try {
      const pull = pullOf(remoteOf(control, 'owner'), [1, 2, 63]);
      assert.equal([...(await reader.agent.read(pull, reader.pool)).valid], [1, 1, 1]);
      const attacks = fc.sample(attack, { numRuns: numAttacks, seed: 11 });
      const before = countOf(child, 'fd');
      // Whatever a node makes once and keeps is there behind these.
      await carryOutAll(attacks.slice(0, 2 * numAtOnce), control);
      await settled(child, before, Number.POSITIVE_INFINITY);
      const threads = countOf(child, 'task');
      await carryOutAll(attacks, control);
      await settled(child, before, threads);
      assert.is(child.exitCode, null);
      assert.equal(
        [...(await reader.agent.read(pull, reader.pool)).valid],
        [1, 1, 1],
        'the reader is served on',
      );
      const late = await startNode({ engineId: 'late', kind: 'tcp' });
      const served = await late.agent.read(pull, late.pool).finally(() => late.close());
      assert.equal([...served.valid], [1, 1, 1], 'so is one that comes now');
    } finally {
      await reader.close();
    }
  });
});

test.run();
