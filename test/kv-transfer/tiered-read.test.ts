// One load from stores and a peer side by side: what a store lost, gave in another size, or never answered.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readTiered, type TieredReadParts } from '../../src/kv-transfer/tiered-read.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import type { PullSpec, StoreBlockRead, StoreLoadSpec } from '../../src/outputs.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';
const blockBytes = 8;
const remote = { engineId: 'owner', requestId: 'held', host: '127.0.0.1', port: 1 };

/** Blocks 0 and 1 lie in the shared store, block 2 with the peer, who has the other two as well if `offersAll`. */
function specOf(offersAll: boolean): StoreLoadSpec {
  const blocks = [0, 1].map(
    (i): StoreBlockRead => ({
      hash: `h${i}`,
      localBlockId: 10 + i,
      tier: 'shared',
      remoteBlockId: offersAll ? 20 + i : null,
    }),
  );
  const pull = { requestId: 'r', remote, remoteBlockIds: [22], localBlockIds: [12], blockHashes: ['h2'] };
  return { requestId: 'r', chain: 'c', localBlockIds: [10, 11, 12], blocks, pull };
}

/** A store that gives `found`, and a peer that has all that it is asked for; both remember what that was. */
function createParts(found: (hash: string) => Uint8Array | null) {
  const copied: number[] = [];
  const pulled: (readonly number[])[] = [];
  const parts: TieredReadParts = {
    agent: {
      read: async (pull: PullSpec) => {
        pulled.push(pull.remoteBlockIds);
        const { length } = pull.remoteBlockIds;
        return { valid: new Uint8Array(length).fill(1), numBytes: length * blockBytes };
      },
    },
    pool: { blockBytes, copyIn: (ids: readonly number[]) => void copied.push(...ids) } as unknown as KvPool,
    stores: { read: async (_, hashes) => hashes.map(found) },
  };
  return { parts, copied, pulled };
}

const never = () => new AbortController().signal;

test('each source is asked for its own blocks, once', async () => {
  const { parts, copied, pulled } = createParts(() => new Uint8Array(blockBytes));
  const result = await readTiered(specOf(true), parts, never());
  assert.equal([...result.valid], [1, 1, 1]);
  assert.equal([copied, pulled], [[10, 11], [[22]]]);
  assert.equal([result.numBytes, result.stores.sharedBytes, result.stores.numBlocks], [8, 16, 2]);
});

for (const [what, found] of [
  ['has lost', null],
  ['gives in another size', new Uint8Array(blockBytes - 1)],
] as const) {
  test(`a block that the store ${what} comes from the peer, and is not counted as stored`, async () => {
    const { parts, copied, pulled } = createParts((hash) =>
      hash === 'h1' ? found : new Uint8Array(blockBytes),
    );
    const result = await readTiered(specOf(true), parts, never());
    assert.equal([...result.valid], [1, 1, 1]);
    assert.equal([copied, pulled], [[10], [[22], [21]]]);
    assert.equal([result.numBytes, result.stores.sharedBytes, result.stores.numBlocks], [16, 8, 1]);
  });

  test(`a block that the store ${what} and the peer does not offer is invalid, and nothing is written for it`, async () => {
    const { parts, copied } = createParts((hash) => (hash === 'h1' ? found : new Uint8Array(blockBytes)));
    const result = await readTiered(specOf(false), parts, never());
    assert.equal([...result.valid], [1, 0, 1]);
    assert.equal(copied, [10]);
  });
}

test('a peer that fails costs its own blocks only', async () => {
  const { parts } = createParts(() => new Uint8Array(blockBytes));
  const agent = { read: () => Promise.reject(new Error('gone')) };
  const result = await readTiered(specOf(true), { ...parts, agent }, never());
  assert.equal([...result.valid], [1, 1, 0]);
});

test('a read that is given up does not wait for a store that says nothing, and writes nothing later', async () => {
  const { parts, copied } = createParts(() => null);
  let answer: (blocks: Uint8Array[]) => void = () => {};
  const answered = new Promise<Uint8Array[]>((resolve) => {
    answer = resolve;
  });
  const stores = { read: () => answered };
  const abort = new AbortController();
  const reading = readTiered(specOf(false), { ...parts, stores }, abort.signal);
  abort.abort();
  assert.equal([...(await reading).valid], [0, 0, 1]);
  answer([new Uint8Array(blockBytes), new Uint8Array(blockBytes)]);
  await Promise.resolve();
  assert.equal(copied, []);
});

test.run();
