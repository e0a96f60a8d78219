// Reads one load's blocks from the stores and from the peer side by side; what a store lost is asked of the peer.

import { messageOf } from '../errors.js';
import type { StoreTier } from '../kv-store/kv-store.js';
import { createLogger } from '../log.js';
import type { KvPool } from '../native/kv-pool.js';
import type { PullSpec, ReadTiming, StoreBlockRead, StoreLoadSpec, StoreReads } from '../outputs.js';
import type { ReadResult, TransferAgent } from './agent.js';
import type { BlockStores } from './store-lookups.js';

export interface TieredReadResult extends ReadResult {
  /** Of the blocks in `localBlockIds`. */
  readonly valid: Uint8Array;
  readonly stores: StoreReads;
  readonly timings: readonly ReadTiming[];
}

export interface TieredReadParts {
  readonly agent: Pick<TransferAgent, 'read'>;
  readonly pool: Pick<KvPool, 'copyIn' | 'blockBytes'>;
  readonly stores: Pick<BlockStores, 'read'>;
}

const log = createLogger('kv-transfer');

/** Blocks of one question to a store, so that a long prompt does not lie in memory twice. */
const numAtOnce = 32;

/** Never rejects; once it is settled, nothing writes into the pool any more. */
export async function readTiered(
  spec: StoreLoadSpec,
  { agent, pool, stores }: TieredReadParts,
  signal: AbortSignal,
): Promise<TieredReadResult> {
  const arrived = new Set<number>();
  const timings: ReadTiming[] = [];
  const bytes: Record<StoreTier, number> = { dedicated: 0, shared: 0 };
  let numPeerBytes = 0;

  const fromPeer = async (pull: PullSpec | null) => {
    if (!pull || pull.remoteBlockIds.length === 0) return;
    const startedAtMs = performance.now();
    try {
      const { valid, numBytes } = await agent.read(pull, pool as KvPool, signal);
      for (const [i, blockId] of pull.localBlockIds.entries()) {
        if (valid[i] === 1) arrived.add(blockId);
      }
      numPeerBytes += numBytes;
      timings.push({ source: 'peer', numBytes, ms: performance.now() - startedAtMs });
    } catch (error) {
      log.warn(`Blocks for ${spec.requestId} were not read: ${messageOf(error)}`);
    }
  };
  const fromStore = async (tier: StoreTier) => {
    const wanted = spec.blocks.filter((block) => block.tier === tier);
    const startedAtMs = performance.now();
    for (let begin = 0; begin < wanted.length && !signal.aborted; begin += numAtOnce) {
      const asked = wanted.slice(begin, begin + numAtOnce);
      const found = await withSignal(
        stores.read(
          tier,
          asked.map(({ hash }) => hash),
          spec.chain,
        ),
        signal,
      );
      for (const [i, { localBlockId }] of asked.entries()) {
        const data = found?.[i];
        if (!data || data.length !== pool.blockBytes) continue;
        pool.copyIn([localBlockId], data);
        arrived.add(localBlockId);
        bytes[tier] += data.length;
      }
    }
    const ms = performance.now() - startedAtMs;
    if (bytes[tier] > 0) timings.push({ source: tier, numBytes: bytes[tier], ms });
  };

  await Promise.all([fromPeer(spec.pull), fromStore('dedicated'), fromStore('shared')]);
  const lost = spec.blocks.filter(({ localBlockId }) => !arrived.has(localBlockId));
  await fromPeer(secondTry(spec, lost));

  const valid = Uint8Array.from(spec.localBlockIds, (blockId) => (arrived.has(blockId) ? 1 : 0));
  const firstInvalid = valid.indexOf(0);
  const intact = new Set(firstInvalid < 0 ? spec.localBlockIds : spec.localBlockIds.slice(0, firstInvalid));
  const lostIds = new Set(lost.map(({ localBlockId }) => localBlockId));
  return {
    valid,
    numBytes: numPeerBytes,
    timings,
    stores: {
      numBlocks: spec.blocks.filter(({ localBlockId: id }) => intact.has(id) && !lostIds.has(id)).length,
      dedicatedBytes: bytes.dedicated,
      sharedBytes: bytes.shared,
    },
  };
}

/** The peer's copies of what the stores no longer had. */
function secondTry({ pull, requestId }: StoreLoadSpec, lost: readonly StoreBlockRead[]): PullSpec | null {
  const offered = lost.flatMap((block) =>
    block.remoteBlockId === null ? [] : [{ ...block, remoteBlockId: block.remoteBlockId }],
  );
  if (!pull || offered.length === 0) return null;
  return {
    requestId,
    remote: pull.remote,
    remoteBlockIds: offered.map(({ remoteBlockId }) => remoteBlockId),
    localBlockIds: offered.map(({ localBlockId }) => localBlockId),
    blockHashes: offered.map(({ hash }) => hash),
  };
}

/** Null when the signal fires first. */
function withSignal<T>(work: Promise<T>, signal: AbortSignal): Promise<T | null> {
  return new Promise((resolve) => {
    const giveUp = () => resolve(null);
    if (signal.aborted) return giveUp();
    signal.addEventListener('abort', giveUp, { once: true });
    void work.then((value) => {
      signal.removeEventListener('abort', giveUp);
      resolve(value);
    }, giveUp);
  });
}
