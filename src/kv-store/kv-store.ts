// KVStore: where blocks go beyond the pool, by block hash. Whatever goes wrong in a store is a miss; it never holds the truth.
import type { BlockHash } from '../wire.js';

/** `dedicated`: this node only. `shared`: every node that is given the same one. */
export type StoreTier = 'dedicated' | 'shared';

export type StoreMedium = 'memory' | 'directory' | 'redis';

/** Which conversation a block belongs to, and where in it: what the session policy goes by. */
export interface ChainPosition {
  /** The conversation, or what stands for it. */
  readonly chain: string;
  /** 0 = the block with the first tokens. */
  readonly index: number;
}

export interface StoredBlock extends ChainPosition {
  readonly hash: BlockHash;
  /** `blockBytes` of the store, exactly. Not touched again by the caller. */
  readonly data: Uint8Array;
}

/** Counters since the store was opened; sizes as this process knows them. */
export interface StoreStats {
  readonly numBlocks: number;
  readonly numBytes: number;
  readonly numHits: number;
  readonly numMisses: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Removed to make room. */
  readonly numEvicted: number;
  /** Removed because they were older than the TTL. */
  readonly numExpired: number;
  /** Removed because their checksum, their length or their name did not fit their contents. */
  readonly numCorrupt: number;
  /** Calls that failed or took too long. */
  readonly numFailures: number;
}

/**
 * Blocks of one namespace. Methods are batched and may reject when the medium fails; callers take that as misses.
 * Implementations check what they read: a block that comes back is bit for bit the one that was put.
 */
export interface KVStore {
  readonly tier: StoreTier;
  readonly medium: StoreMedium;
  /** True where a block is held and has not expired. Counts as no use. */
  has(hashes: readonly BlockHash[]): Promise<readonly boolean[]>;
  /** Null = a miss. `chain` is the conversation that wants them, so that they count as its own from now on. */
  get(hashes: readonly BlockHash[], chain?: string): Promise<readonly (Uint8Array | null)[]>;
  /** Returns how many of them are held now; 0 of a store that has no room even for one. */
  put(blocks: readonly StoredBlock[]): Promise<number>;
  /** Called when a block leaves by itself: evicted, expired or found corrupt. */
  onRemoved(listener: (hash: BlockHash) => void): void;
  stats(): StoreStats;
  /** Resolves when nothing is left open. Idempotent. */
  close(): Promise<void>;
}

/** Counts what a store does; `stats()` adds the sizes. */
export class StoreCounters {
  numHits = 0;
  numMisses = 0;
  bytesRead = 0;
  bytesWritten = 0;
  numEvicted = 0;
  numExpired = 0;
  numCorrupt = 0;
  numFailures = 0;

  read(found: Uint8Array | null): void {
    if (!found) {
      this.numMisses += 1;
      return;
    }
    this.numHits += 1;
    this.bytesRead += found.length;
  }

  stats(numBlocks: number, numBytes: number): StoreStats {
    return { numBlocks, numBytes, ...this };
  }
}
