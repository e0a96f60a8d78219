// One-sided reads of another process's pool: what is verified arrives, what changed under the reader does not count.
import { type ChildProcess, fork } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import type { KvPool, PeerPool } from '../../src/native/kv-pool.js';
import type { KvPoolLayout } from '../../src/native/kv-pool-layout.js';
import { loadNative } from '../../src/native.js';
import { ownerLayout } from './peer-pool-layout.js';
import type { OwnerCommand } from './peer-pool-owner.js';

const native = loadNative();
const hashes = Array.from({ length: 16 }, (_, i) => i.toString(16).padStart(2, '0').repeat(32));

interface Owner {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly fd: number;
  tell(command: OwnerCommand): Promise<void>;
  kill(): Promise<void>;
}

async function startOwner(): Promise<Owner> {
  const child = fork(fileURLToPath(new URL('./peer-pool-owner.js', import.meta.url)));
  const [{ fd }] = (await once(child, 'message')) as [{ fd: number }];
  return {
    child,
    pid: child.pid!,
    fd,
    async tell(command) {
      const answered = once(child, 'message');
      child.send(command);
      await answered;
    },
    async kill() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    },
  };
}

async function withOwner(
  body: (owner: Owner, peer: PeerPool, local: KvPool) => Promise<void>,
): Promise<void> {
  const owner = await startOwner();
  const peer = native.openPeerPool(owner.pid, owner.fd, ownerLayout);
  const local = native.createPool({ ...ownerLayout, numBlocks: 32 });
  try {
    await body(owner, peer, local);
  } finally {
    peer.close();
    local.close();
    await owner.kill();
  }
}

function failure(run: () => unknown): VllmPdError {
  try {
    run();
  } catch (error) {
    assert.instance(error, VllmPdError);
    return error as VllmPdError;
  }
  throw new Error('nothing was thrown');
}

const everyByteIs = (block: Uint8Array, value: number) => block.every((byte) => byte === value);

test('published blocks arrive, in runs and one by one, where they were asked to go', () =>
  withOwner(async (owner, peer, local) => {
    for (const blockId of [2, 3, 4, 9]) {
      await owner.tell({ kind: 'publish', blockId, hash: hashes[blockId]!, fill: 100 + blockId });
    }
    const valid = await peer.read(
      local,
      [2, 3, 4, 9, 3],
      [20, 21, 22, 5, 31],
      [2, 3, 4, 9, 3].map((id) => hashes[id]!),
    );
    assert.equal([...valid], [1, 1, 1, 1, 1]);
    for (const [localId, remoteId] of [
      [20, 2],
      [21, 3],
      [22, 4],
      [5, 9],
      [31, 3],
    ] as const) {
      assert.ok(everyByteIs(local.block(localId), 100 + remoteId), `local block ${localId}`);
    }
    assert.ok(everyByteIs(local.block(23), 0), 'a block that was not asked for is left alone');
  }));

test('never published, retracted, republished and mismatched blocks are reported, their neighbours arrive', () =>
  withOwner(async (owner, peer, local) => {
    for (const blockId of [1, 2, 3, 4]) {
      await owner.tell({ kind: 'publish', blockId, hash: hashes[blockId]!, fill: blockId });
    }
    await owner.tell({ kind: 'retract', blockId: 2 });
    await owner.tell({ kind: 'publish', blockId: 3, hash: hashes[15]!, fill: 99 });
    const ids = [0, 1, 2, 3, 4];
    const valid = await peer.read(
      local,
      ids,
      ids,
      ids.map((id) => hashes[id]!),
    );
    assert.equal([...valid], [0, 1, 0, 0, 1]);
    assert.ok(everyByteIs(local.block(1), 1));
    assert.ok(everyByteIs(local.block(4), 4));
    assert.equal([...(await peer.read(local, [3], [3], [hashes[15]!]))], [1]);
    assert.equal(
      [...(await peer.read(local, [0], [0], ['0'.repeat(64)]))],
      [0],
      'an unwritten row matches no hash',
    );
  }));

test('long reads, which other threads do, and short ones beside them arrive whole and say what was stale', async () => {
  const layout = { ...ownerLayout, numBlocks: 96 };
  const owned = native.createPool(layout);
  const peer = native.openPeerPool(process.pid, owned.fd, layout);
  const locals = [0, 1, 2].map(() => native.createPool(layout));
  const ids = Array.from({ length: layout.numBlocks }, (_, id) => id);
  const hashOf = (id: number) => id.toString(16).padStart(2, '0').repeat(32);
  try {
    assert.ok(layout.numBlocks * owned.blockBytes > 4 << 20, 'longer than what is read on the spot');
    for (const id of ids) {
      owned.block(id).fill(id);
      if (id % 10 !== 3) owned.publish(id, hashOf(id));
    }
    const backwards = [...ids].reverse();
    const read = (local: KvPool, from: readonly number[]) =>
      peer.read(local, from, from, from.map(hashOf)).then((valid) => ({ local, from, valid }));
    const reads = [read(locals[0]!, ids), read(locals[1]!, backwards), read(locals[2]!, [7, 8, 13])];
    for (const { local, from, valid } of await Promise.all(reads)) {
      assert.equal(
        [...valid],
        from.map((id) => (id % 10 === 3 ? 0 : 1)),
      );
      for (const id of from) if (id % 10 !== 3) assert.ok(everyByteIs(local.block(id), id), `block ${id}`);
    }
    assert.equal([...(await read(locals[2]!, [9])).valid], [1], 'short ones are read on the spot again');
  } finally {
    peer.close();
    for (const pool of [owned, ...locals]) pool.close();
  }
});

test('a block that is rewritten all the time is either reported or exactly what its hash says', () =>
  withOwner(async (owner, peer, local) => {
    await owner.tell({ kind: 'churn', blockId: 7, hashes: hashes.slice(0, 3) });
    let numValid = 0;
    let numInvalid = 0;
    for (let i = 0; i < 3000; i++) {
      const wanted = i % 3;
      const [valid] = await peer.read(local, [7], [7], [hashes[wanted]!]);
      if (valid) {
        numValid++;
        assert.ok(everyByteIs(local.block(7), wanted), `read ${i} is torn or stale`);
      } else {
        numInvalid++;
      }
    }
    await owner.tell({ kind: 'calm' });
    assert.ok(numInvalid > 0, 'the owner never got in between');
    await owner.tell({ kind: 'publish', blockId: 7, hash: hashes[5]!, fill: 55 });
    assert.equal([...(await peer.read(local, [7], [7], [hashes[5]!]))], [1]);
    assert.ok(numValid + numInvalid === 3000 && everyByteIs(local.block(7), 55));
  }));

test('a read larger than the caches arrives whole, whatever its blocks are aligned to, but for what is stale', async () => {
  // 120 bytes a block: pieces begin and end within cache lines.
  const odd = {
    numBlocks: 200_001,
    numLayers: 1,
    numKvHeads: 1,
    blockSize: 5,
    headDim: 3,
    dtype: 'float32' as const,
  };
  const owner = native.createPool(odd);
  const local = native.createPool(odd);
  const peer = native.openPeerPool(process.pid, owner.fd, odd);
  try {
    const hash = hashes[1]!;
    const stale = new Set([1, 77_777, 200_000]);
    const remoteIds = Array.from({ length: 200_000 }, (_, i) => i + 1);
    for (const id of remoteIds) {
      new DataView(owner.block(id).buffer).setUint32(116, id);
      if (!stale.has(id)) owner.publish(id, hash);
    }
    // Runs of three, every second one somewhere else.
    const localIds = remoteIds.map((id) => (Math.floor(id / 3) % 2 === 0 ? id : 200_001 - id));
    const taken = new Set<number>();
    const pairs = remoteIds.flatMap((id, i) => {
      const to = localIds[i]!;
      if (taken.has(to)) return [];
      taken.add(to);
      return [[id, to] as const];
    });
    const valid = await peer.read(
      local,
      pairs.map(([from]) => from),
      pairs.map(([, to]) => to),
      pairs.map(() => hash),
    );
    for (const [i, [from, to]] of pairs.entries()) {
      const arrived = new DataView(local.block(to).buffer).getUint32(116);
      if (valid[i] !== (stale.has(from) ? 0 : 1) || arrived !== (stale.has(from) ? 0 : from)) {
        assert.unreachable(`block ${from} came to ${to} as ${arrived}, valid ${valid[i]}`);
      }
    }
  } finally {
    peer.close();
    owner.close();
    local.close();
  }
});

test('a pool of another layout, no pool, and the pool of a dead process cannot be opened', async () => {
  const owner = await startOwner();
  const open = (pid: number, fd: number, layout = ownerLayout) =>
    failure(() => native.openPeerPool(pid, fd, layout));

  const layout = open(owner.pid, owner.fd, { ...ownerLayout, blockSize: 8 });
  assert.is(layout.code, 'PEER_FAILED');
  assert.match(layout.message, /expected to have .* 8 slots.* but has .* 16 slots/);
  assert.match(open(owner.pid, 0).message, /is not a KV pool but/);
  assert.match(open(owner.pid, 999).message, /cannot be reached/);
  assert.is(open(0, owner.fd).code, 'INVALID_ARGUMENT');

  await owner.kill();
  const dead = open(owner.pid, owner.fd);
  assert.is(dead.code, 'PEER_FAILED');
  assert.match(dead.message, new RegExp(`process ${owner.pid} .* cannot be reached`));
});

test('blocks that a process had published stay readable, and verified, after it died', () =>
  withOwner(async (owner, peer, local) => {
    await owner.tell({ kind: 'publish', blockId: 6, hash: hashes[6]!, fill: 66 });
    await owner.kill();
    assert.equal([...(await peer.read(local, [6, 7], [0, 1], [hashes[6]!, hashes[7]!]))], [1, 0]);
    assert.ok(everyByteIs(local.block(0), 66));
  }));

test('blocks of odd sizes, more than caches keep, arrive byte for byte in runs and one by one', async () => {
  const layout: KvPoolLayout = { ...ownerLayout, numBlocks: 4001, numLayers: 3, blockSize: 7, headDim: 26 };
  const owned = native.createPool(layout);
  const peer = native.openPeerPool(process.pid, owned.fd, layout);
  const local = native.createPool(layout);
  const ids = Array.from({ length: layout.numBlocks }, (_, id) => id);
  const hashOf = (id: number) => id.toString(16).padStart(4, '0').repeat(16);
  const apart = ids.map((id) => (id * 1999) % layout.numBlocks);
  try {
    assert.is.not(owned.blockBytes % 64, 0);
    for (const id of ids) {
      randomFillSync(owned.block(id));
      owned.publish(id, hashOf(id));
    }
    for (const from of [ids, apart]) {
      const valid = await peer.read(local, from, ids, from.map(hashOf));
      assert.not.ok(valid.includes(0));
      for (const [i, id] of from.entries()) {
        assert.is(Buffer.compare(local.block(i), owned.block(id)), 0, `block ${id} at ${i}`);
      }
    }
  } finally {
    peer.close();
    local.close();
    owned.close();
  }
});

test("a peer's pool is mapped in huge pages where its owner has them", async () => {
  const layout = { ...ownerLayout, numBlocks: 96 };
  const owned = native.createPool(layout);
  const peer = native.openPeerPool(process.pid, owned.fd, layout);
  try {
    owned.publish(50, hashes[5]!);
    assert.equal([...(await peer.read(owned, [50], [0], [hashes[5]!]))], [1]);
    const mappings = readFileSync('/proc/self/smaps', 'utf8').split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/);
    const isHuge = (access: string) =>
      mappings.some(
        (one) =>
          one.includes(` ${access} `) && one.includes('vllm-pd-kv') && /ShmemPmdMapped: +[1-9]/.test(one),
      );
    // The system may have none left.
    if (isHuge('rw-s')) assert.ok(isHuge('r--s'));
  } finally {
    peer.close();
    owned.close();
  }
});

test('reads with wrong arguments are refused, as are reads after closing', () =>
  withOwner(async (_owner, peer, local) => {
    const rejected = async (...args: Parameters<PeerPool['read']>) => {
      try {
        await peer.read(...args);
      } catch (error) {
        assert.is((error as VllmPdError).code, 'INVALID_ARGUMENT');
        return (error as VllmPdError).message;
      }
      throw new Error('nothing was thrown');
    };
    assert.match(await rejected(local, [16], [0], [hashes[0]!]), /remoteBlockIds\[0\] but received 16/);
    assert.match(await rejected(local, [0], [32], [hashes[0]!]), /localBlockIds\[0\] but received 32/);
    assert.match(await rejected(local, [0, 1], [0], hashes.slice(0, 2)), /2 elements in localBlockIds/);
    assert.match(await rejected(local, [0], [0], ['xyz']), /64 hex digits but received "xyz"/);
    const [a, b] = [hashes[0]!, hashes[1]!];
    assert.match(await rejected(local, [0, 1], [0, 1], [a.slice(1), `0${b}`]), /but received "00/);
    assert.match(await rejected(local, [0, 1], [0, 1], [a, `x${b.slice(1)}`]), /but received "x1/);
    assert.match(await rejected(local, [0, 1], [0, 1], [a, null as never]), /but received null/);
    assert.equal([...(await peer.read(local, [], [], []))], []);
    const small = native.createPool({ ...ownerLayout, headDim: 32 });
    assert.match(await rejected(small, [0], [0], [hashes[0]!]), /with blocks of \d+ bytes/);
    small.close();
    assert.match(await rejected(small, [0], [0], [hashes[0]!]), /pool is closed/);
    peer.close();
    assert.match(await rejected(local, [0], [0], [hashes[0]!]), /peer's KV pool is closed/);
  }));

test.run();
