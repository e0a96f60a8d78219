// Nodes that read each other through the relay of the soak: each fault costs blocks at most, and never makes one wrong.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { SideChannelRelay } from '../../src/chaos/side-channel-relay.js';
import type { ReadResult } from '../../src/kv-transfer/agent.js';
import { fillBlock, pullOf, type TransferNode, withNodes } from '../kv-transfer/transfer-node.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';
const blockIds = [5, 6, 7, 8];

interface Parts {
  readonly relay: SideChannelRelay;
  readonly owner: TransferNode;
  readonly reader: TransferNode;
  /** Null = the read failed. Whatever is called valid has been compared. */
  readonly read: (signal?: AbortSignal) => Promise<ReadResult | null>;
}

function relayTest(name: string, run: (parts: Parts) => Promise<void>): void {
  test(name, async () => {
    const relay = await SideChannelRelay.open();
    try {
      const kind = { kind: 'tcp', key: 'a key of sixteen characters' } as const;
      await withNodes(kind, kind, async (owner, reader) => {
        for (const id of blockIds) fillBlock(owner.pool, id);
        relay.connectTo(`127.0.0.1:${owner.agent.port}`);
        const remote = { engineId: 'owner', host: relay.host, port: relay.port, requestId: 'held' };
        const pull = pullOf(remote, blockIds);
        const read = async (signal?: AbortSignal) => {
          for (const id of pull.localBlockIds) reader.pool.block(id).fill(0);
          const result = await reader.agent.read(pull, reader.pool, signal).catch(() => null);
          for (const [i, id] of blockIds.entries()) {
            if (result?.valid[i] !== 1) continue;
            const arrived = Buffer.from(reader.pool.block(pull.localBlockIds[i]!));
            assert.ok(arrived.equals(owner.pool.block(id)), `block ${id} is called valid and is another`);
          }
          return result;
        };
        await run({ relay, owner, reader, read });
      });
    } finally {
      await relay.close();
    }
  });
}

const isWhole = (result: ReadResult | null) => result !== null && !result.valid.includes(0);

relayTest('blocks go through the relay, not past it', async ({ relay, read }) => {
  assert.ok(isWhole(await read()));
  // The side channel says little in this time, the data connections 16 KiB.
  relay.damage('truncate', 6000);
  await read();
  assert.equal(relay.strike(Buffer.alloc(100)).kind, 'pass', 'it has struck');
  assert.ok(isWhole(await read()));
});

for (const kind of ['corrupt', 'truncate', 'reorder'] as const) {
  relayTest(
    `whatever bytes ${kind} strikes, no block that is valid is wrong`,
    async ({ relay, reader, read }) => {
      // From the handshake, through each frame, into the blocks.
      for (let at = 0; at < 20_000; at += at < 2500 ? 61 : 1523) {
        // On fresh connections, so that the handshake has its turn.
        await relay.partition(0);
        relay.damage(kind, at);
        await read();
        relay.calm();
        assert.ok(isWhole(await read()), `after byte ${at}`);
      }
      if (kind === 'corrupt') assert.ok(reader.agent.numDamagedBlocks > 0, 'some were in blocks');
    },
  );
}

relayTest('what a blackhole swallows is given up, and read over new connections', async ({ relay, read }) => {
  assert.ok(isWhole(await read()));
  await relay.blackhole(1);
  assert.is(await read(AbortSignal.timeout(300)), null);
  assert.ok(isWhole(await read()));
});

test.run();
