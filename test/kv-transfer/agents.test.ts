// Transfer agents over real sockets and pools: verified reads, notifications, and who is refused.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import type { ReadResult, TransferAgent } from '../../src/kv-transfer/agent.js';
import { createTransferAgent } from '../../src/kv-transfer/create-agent.js';
import { loadNative } from '../../src/native.js';
import type { PullSpec } from '../../src/outputs.js';
import {
  fillBlock,
  hashOf,
  layout,
  pullOf,
  remoteOf,
  startNode,
  type TransferNode,
  until,
  withNodes,
} from './transfer-node.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';
const kinds = ['shm', 'tcp'] as const;
const blockBytes = 4096;

async function isRefused(agent: TransferAgent, pull: PullSpec, into: TransferNode, sentence: RegExp) {
  try {
    await agent.read(pull, into.pool);
  } catch (error) {
    assert.ok(error instanceof VllmPdError);
    assert.is(error.code, 'PEER_FAILED');
    assert.match(error.message, sentence);
    return;
  }
  assert.unreachable('the read was not refused');
}

/** A mapped pool can be read until its owner's connection is seen to end. */
async function noticed(agent: TransferAgent, pull: PullSpec, into: TransferNode) {
  for (let isServed = true; isServed; ) {
    // A short read is done at once, without the event loop, which brings the news.
    await new Promise(setImmediate);
    isServed = await agent.read(pull, into.pool).then(
      () => true,
      () => false,
    );
  }
}

test('tcp: more reads at once than an owner lets wait all arrive', async () => {
  // Blocks that are sent by the connections' threads, one behind the other.
  const large = { ...layout, headDim: 512 };
  await withNodes({ kind: 'tcp', layout: large }, { kind: 'tcp', layout: large }, async (owner, reader) => {
    fillBlock(owner.pool, 3);
    const remote = remoteOf(owner.agent, 'owner');
    const reads = Array.from({ length: 2500 }, () => reader.agent.read(pullOf(remote, [3]), reader.pool));
    const results = await Promise.all(reads);
    assert.ok(results.every(({ valid }) => valid[0] === 1));
  });
});

for (const kind of kinds) {
  test(`${kind}: blocks arrive as they are, and bytes sent equal bytes received`, async () => {
    await withNodes({ kind }, { kind }, async (owner, reader) => {
      const ids = [9, 10, 11, 3, 63];
      for (const id of ids) fillBlock(owner.pool, id);
      const remote = remoteOf(owner.agent, 'owner');
      assert.is(reader.agent.transportOf('owner'), null);
      const result = await reader.agent.read(pullOf(remote, ids), reader.pool);
      assert.equal([...result.valid], [1, 1, 1, 1, 1]);
      assert.is(result.numBytes, 5 * blockBytes);
      assert.is(reader.agent.transportOf('owner'), kind);
      for (const [i, id] of ids.entries()) {
        assert.ok(Buffer.from(reader.pool.block(i + 1)).equals(owner.pool.block(id)), `block ${id}`);
      }
      await reader.agent.sendNotif(remote, 5);
      assert.equal(owner.notifs, [{ requestId: 'held', numBlocks: 5 }]);
      assert.is(reader.agent.bytesReceived, 5 * blockBytes);
      assert.is(owner.agent.bytesSent, 5 * blockBytes);
      assert.is(owner.agent.bytesReceived, 0);
      assert.is(reader.agent.bytesSent, 0);
    });
  });

  test(`${kind}: a block that holds other tokens, or none, is refused and costs no bytes`, async () => {
    await withNodes({ kind }, { kind }, async (owner, reader) => {
      for (const id of [1, 2, 3, 4]) fillBlock(owner.pool, id);
      owner.pool.publish(2, hashOf('other tokens'));
      owner.pool.retract(3);
      const remote = remoteOf(owner.agent, 'owner');
      const result = await reader.agent.read(pullOf(remote, [1, 2, 3, 4, 5]), reader.pool);
      assert.equal([...result.valid], [1, 0, 0, 1, 0]);
      assert.is(result.numBytes, 2 * blockBytes);
      await reader.agent.sendNotif(remote, 1);
      assert.is(owner.agent.bytesSent, reader.agent.bytesReceived);
    });
  });

  test(`${kind}: ids outside the peer's pool end the read there, not the connection`, async () => {
    await withNodes({ kind }, { kind }, async (owner, reader) => {
      for (const id of [1, 2, 3]) fillBlock(owner.pool, id);
      const remote = remoteOf(owner.agent, 'owner');
      const read = (ids: number[]) => reader.agent.read(pullOf(remote, ids), reader.pool);
      assert.equal([...(await read([1, 2, 64, 3])).valid], [1, 1, 0, 0]);
      assert.equal([...(await read([2 ** 31 - 1, 1])).valid], [0, 0]);
      assert.equal([...(await read([1, 2, 3])).valid], [1, 1, 1]);
    });
  });

  test(`${kind}: reads and notifications of many requests at once do not mix`, async () => {
    await withNodes({ kind }, { kind }, async (owner, reader) => {
      for (let id = 1; id < 64; id += 1) fillBlock(owner.pool, id);
      const remote = remoteOf(owner.agent, 'owner');
      const results = await Promise.all(
        Array.from({ length: 30 }, async (_, i) => {
          const pull = { ...pullOf(remote, [i + 1]), localBlockIds: [63 - i] };
          const result = await reader.agent.read(pull, reader.pool);
          await reader.agent.sendNotif({ ...remote, requestId: `held ${i}` }, 1);
          return result.valid[0];
        }),
      );
      assert.equal(results, new Array(30).fill(1));
      for (let i = 0; i < 30; i += 1) {
        assert.ok(Buffer.from(reader.pool.block(63 - i)).equals(owner.pool.block(i + 1)));
      }
      assert.is(new Set(owner.notifs.map((notif) => notif.requestId)).size, 30);
      assert.is(owner.agent.bytesSent, 30 * blockBytes);
      assert.is(reader.agent.bytesReceived, 30 * blockBytes);
    });
  });

  test(`${kind}: a restarted peer, another engine at the same address, is refused`, async () => {
    await withNodes({ kind, engineId: 'second life' }, { kind }, async (owner, reader) => {
      fillBlock(owner.pool, 1);
      const remote = remoteOf(owner.agent, 'first life');
      await isRefused(
        reader.agent,
        pullOf(remote, [1]),
        reader,
        /Expected engine first life but this is second life/,
      );
      await reader.agent.sendNotif(remote, 0);
      assert.equal(owner.notifs, [], 'nor does it take the notification for another');
      const right = remoteOf(owner.agent, 'second life');
      assert.equal([...(await reader.agent.read(pullOf(right, [1]), reader.pool)).valid], [1]);
    });
  });

  test(`${kind}: after a broken connection the next read makes a new one`, async () => {
    const reader = await startNode({ engineId: 'reader', kind });
    let owner = await startNode({ engineId: 'owner', kind });
    const { port } = owner.agent;
    try {
      fillBlock(owner.pool, 1);
      const pull = pullOf(remoteOf(owner.agent, 'owner'), [1]);
      await reader.agent.read(pull, reader.pool);
      await owner.close();
      owner = await startNode({ engineId: 'owner', kind, port });
      fillBlock(owner.pool, 1);
      assert.equal([...(await reader.agent.read(pull, reader.pool)).valid], [1]);
      await owner.close();
      await noticed(reader.agent, pull, reader);
      await isRefused(reader.agent, pull, reader, /Peer owner at 127\.0\.0\.1/);
      owner = await startNode({ engineId: 'owner', kind, port });
      await reader.agent.sendNotif(pull.remote, 0);
      assert.is(owner.notifs.length, 1);
    } finally {
      await reader.close();
      await owner.close();
    }
  });
}

const differences = [
  ['another model', { compatibility: 'another model, seed 0' }],
  ['another block size', { layout: { ...layout, blockSize: 32 } }],
  ['another number of layers', { layout: { ...layout, numLayers: 1 } }],
  ['other heads', { layout: { ...layout, numKvHeads: 4 } }],
  ['another head dimension', { layout: { ...layout, headDim: 16 } }],
  ['another KV dtype', { layout: { ...layout, dtype: 'bfloat16' } }],
  ['bytes as many but of another type', { layout: { ...layout, dtype: 'bfloat16', headDim: 16 } }],
] as const;

for (const [name, ownerOptions] of differences) {
  test(`a peer with ${name} is refused`, async () => {
    await withNodes(ownerOptions, {}, async (owner, reader) => {
      const pull = pullOf(remoteOf(owner.agent, 'owner'), [1]);
      await isRefused(reader.agent, pull, reader, /of the two nodes differ/);
    });
  });
}

test('a peer with a pool of another size is read all the same', async () => {
  for (const kind of kinds) {
    await withNodes({ kind, layout: { ...layout, numBlocks: 200 } }, { kind }, async (owner, reader) => {
      fillBlock(owner.pool, 150);
      const pull = pullOf(remoteOf(owner.agent, 'owner'), [150]);
      assert.equal([...(await reader.agent.read(pull, reader.pool)).valid], [1]);
    });
  }
});

test('auto maps the pool of a process on this host', async () => {
  await withNodes({}, {}, async (owner, reader) => {
    fillBlock(owner.pool, 1);
    await reader.agent.read(pullOf(remoteOf(owner.agent, 'owner'), [1]), reader.pool);
    assert.is(reader.agent.transportOf('owner'), 'shm');
  });
});

test('shm and tcp give identical results and bytes for the same pull', async () => {
  const outcomes: { result: ReadResult; bytes: Buffer }[] = [];
  for (const kind of kinds) {
    await withNodes({ kind }, { kind }, async (owner, reader) => {
      for (let id = 1; id < 40; id += 1) fillBlock(owner.pool, id);
      for (const id of [7, 20, 21]) owner.pool.retract(id);
      const ids = [5, 6, 7, 8, 30, 29, 28, 20, 21, 22, 64];
      const result = await reader.agent.read(pullOf(remoteOf(owner.agent, 'owner'), ids), reader.pool);
      const arrived = ids.flatMap((_, i) =>
        result.valid[i] === 1 ? [Buffer.from(reader.pool.block(i + 1))] : [],
      );
      outcomes.push({ result, bytes: Buffer.concat(arrived) });
    });
  }
  const [shm, tcp] = outcomes;
  assert.equal([...shm!.result.valid], [...tcp!.result.valid]);
  assert.is(shm!.result.numBytes, tcp!.result.numBytes);
  assert.ok(shm!.bytes.equals(tcp!.bytes));
});

test('tcp: a read of many chunks arrives whole', async () => {
  // 3000 blocks of 4 KiB are three chunks.
  const large = { ...layout, numBlocks: 3001 };
  await withNodes({ kind: 'tcp', layout: large }, { kind: 'tcp', layout: large }, async (owner, reader) => {
    const ids = Array.from({ length: 3000 }, (_, i) => 3000 - i);
    for (const id of ids) fillBlock(owner.pool, id);
    owner.pool.retract(17);
    const result = await reader.agent.read(pullOf(remoteOf(owner.agent, 'owner'), ids), reader.pool);
    assert.is(result.valid.indexOf(0), ids.indexOf(17));
    assert.is(result.numBytes, 2999 * blockBytes);
    assert.is(owner.agent.bytesSent, reader.agent.bytesReceived);
    for (const [i, id] of ids.entries()) {
      if (id !== 17)
        assert.ok(Buffer.from(reader.pool.block(i + 1)).equals(owner.pool.block(id)), `block ${id}`);
    }
  });
});

test('an unreachable peer is a sentence, and a notification to it ends quietly', async () => {
  await withNodes({}, {}, async (owner, reader) => {
    const remote = remoteOf(owner.agent, 'owner');
    await owner.agent.close();
    await isRefused(
      reader.agent,
      pullOf(remote, [1]),
      reader,
      /Peer owner at 127\.0\.0\.1:\d+: .*ECONNREFUSED/,
    );
    await reader.agent.sendNotif(remote, 0);
  });
});

test('a taken port is said to be taken', async () => {
  await withNodes({}, {}, async (owner) => {
    try {
      await startNode({ engineId: 'third', kind: 'auto', port: owner.agent.port });
      assert.unreachable();
    } catch (error) {
      assert.is((error as VllmPdError).code, 'ADDRESS_IN_USE');
    }
  });
});

test('closing ends reads under way and refuses later ones', async () => {
  await withNodes({ kind: 'tcp' }, { kind: 'tcp' }, async (owner, reader) => {
    fillBlock(owner.pool, 1);
    const pull = pullOf(remoteOf(owner.agent, 'owner'), [1]);
    const reading = reader.agent.read(pull, reader.pool).then(
      () => 'arrived',
      (error: VllmPdError) => error.code,
    );
    await reader.agent.close();
    assert.is(await reading, 'PEER_FAILED');
    await isRefused(reader.agent, pull, reader, /closed/);
    await reader.agent.close();
  });
});

// The engine refuses such parameters before; this is behind it.
test('an agent connects to its peers and to nobody else', async () => {
  await withNodes({}, { peers: ['10.0.0.1'] }, async (owner, reader) => {
    fillBlock(owner.pool, 1);
    const pull = pullOf(remoteOf(owner.agent, 'owner'), [1]);
    await isRefused(reader.agent, pull, reader, /is not among this node's KV peers/);
    assert.is(await reader.agent.sendNotif(pull.remote, 0), null);
    assert.equal(owner.notifs, []);
  });
});

test('both directions work at once between the same two nodes', async () => {
  await withNodes({}, { kind: 'tcp' }, async (p, d) => {
    fillBlock(p.pool, 40);
    fillBlock(d.pool, 50);
    const fromP = remoteOf(p.agent, 'owner');
    const fromD = remoteOf(d.agent, 'reader');
    await Promise.all([d.agent.read(pullOf(fromP, [40]), d.pool), p.agent.read(pullOf(fromD, [50]), p.pool)]);
    await Promise.all([d.agent.sendNotif(fromP, 1), p.agent.sendNotif(fromD, 1)]);
    await until(() => p.notifs.length === 1 && d.notifs.length === 1, 'both notifications');
    assert.is(p.agent.bytesSent, d.agent.bytesReceived);
    assert.is(d.agent.bytesSent, p.agent.bytesReceived);
  });
});

test('an address that leads peers to themselves is refused', async () => {
  const pool = loadNative().createPool(layout);
  try {
    for (const sideChannelHost of ['0.0.0.0', '::', '']) {
      const config = { agent: 'auto', sideChannelHost, sideChannelPort: 0 } as const;
      const error = await createTransferAgent({ config, engineId: 'e', pool, compatibility: '' }).catch(
        (e) => e,
      );
      assert.is(error.code, 'INVALID_ARGUMENT');
    }
  } finally {
    pool.close();
  }
});

test.run();
