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
  readonly pool: KvPool;
  readonly stores: Pick<BlockStores, 'read'>;
}

const log = createLogger('kv-transfer');

/** Blocks of one question to a store, so that a long prompt does not lie in memory twice. */
const numAtOnce = 32;

/** Never rejects; once it is settled, nothing writes into the pool any more. */
export function readTiered(
  spec: StoreLoadSpec,
  parts: TieredReadParts,
  signal: AbortSignal,
): Promise<TieredReadResult> {
  return new TieredRead(spec, parts, signal).run();
}

class TieredRead {
  readonly #spec: StoreLoadSpec;
  readonly #parts: TieredReadParts;
  readonly #signal: AbortSignal;
  /** Local ids of the blocks that are where they should be. */
  readonly #arrived = new Set<number>();
  readonly #timings: ReadTiming[] = [];
  readonly #storeBytes: Record<StoreTier, number> = { dedicated: 0, shared: 0 };
  #numPeerBytes = 0;

  constructor(spec: StoreLoadSpec, parts: TieredReadParts, signal: AbortSignal) {
    this.#spec = spec;
    this.#parts = parts;
    this.#signal = signal;
  }

  async run(): Promise<TieredReadResult> {
    const { blocks, localBlockIds, pull } = this.#spec;
    await Promise.all([this.#fromPeer(pull), this.#fromStore('dedicated'), this.#fromStore('shared')]);
    const lost = blocks.filter(({ localBlockId }) => !this.#arrived.has(localBlockId));
    await this.#fromPeer(secondTry(this.#spec, lost));
    const valid = Uint8Array.from(localBlockIds, (blockId) => (this.#arrived.has(blockId) ? 1 : 0));
    return {
      valid,
      numBytes: this.#numPeerBytes,
      timings: this.#timings,
      stores: {
        numBlocks: this.#countStoreBlocks(valid, lost),
        dedicatedBytes: this.#storeBytes.dedicated,
        sharedBytes: this.#storeBytes.shared,
      },
    };
  }

  async #fromPeer(pull: PullSpec | null): Promise<void> {
    if (!pull || pull.remoteBlockIds.length === 0) return;
    const startedAtMs = performance.now();
    try {
      const { valid, numBytes } = await this.#parts.agent.read(pull, this.#parts.pool, this.#signal);
      for (const [i, blockId] of pull.localBlockIds.entries()) {
        if (valid[i] === 1) this.#arrived.add(blockId);
      }
      this.#numPeerBytes += numBytes;
      this.#timings.push({ source: 'peer', numBytes, ms: performance.now() - startedAtMs });
    } catch (error) {
      log.warn(`Blocks for ${this.#spec.requestId} were not read: ${messageOf(error)}`);
    }
  }

  async #fromStore(tier: StoreTier): Promise<void> {
    const wanted = this.#spec.blocks.filter((block) => block.tier === tier);
    const startedAtMs = performance.now();
    for (let begin = 0; begin < wanted.length && !this.#signal.aborted; begin += numAtOnce) {
      await this.#copyFromStore(tier, wanted.slice(begin, begin + numAtOnce));
    }
    const numBytes = this.#storeBytes[tier];
    const ms = performance.now() - startedAtMs;
    if (numBytes > 0) this.#timings.push({ source: tier, numBytes, ms });
  }

  async #copyFromStore(tier: StoreTier, asked: readonly StoreBlockRead[]): Promise<void> {
    const { pool, stores } = this.#parts;
    const hashes = asked.map(({ hash }) => hash);
    const found = await withSignal(stores.read(tier, hashes, this.#spec.chain), this.#signal);
    for (const [i, { localBlockId }] of asked.entries()) {
      const data = found?.[i];
      if (!data || data.length !== pool.blockBytes) continue;
      pool.copyIn([localBlockId], data);
      this.#arrived.add(localBlockId);
      this.#storeBytes[tier] += data.length;
    }
  }

  /** Of the load's intact leading blocks, those that a store had. */
  #countStoreBlocks(valid: Uint8Array, lost: readonly StoreBlockRead[]): number {
    const { blocks, localBlockIds } = this.#spec;
    const firstInvalid = valid.indexOf(0);
    const intact = new Set(firstInvalid < 0 ? localBlockIds : localBlockIds.slice(0, firstInvalid));
    for (const { localBlockId } of lost) intact.delete(localBlockId);
    return blocks.filter(({ localBlockId }) => intact.has(localBlockId)).length;
  }
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
