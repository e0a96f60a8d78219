// What a store holds as this process knows it: sizes, ages, and who leaves when there is no room.
import type { EvictionPolicyName } from '../config.js';
import type { BlockHash } from '../wire.js';
import { createEvictionPolicy } from './create-eviction-policy.js';
import type { EvictionPolicy } from './eviction-policy.js';
import type { ChainPosition } from './kv-store.js';

export interface StoreLimits {
  /** Null = no limit. */
  readonly capacityBytes: number | null;
  /** Since a block was written; null = for ever. */
  readonly ttlMs: number | null;
  readonly policy: EvictionPolicyName;
}

interface Entry {
  readonly numBytes: number;
  readonly writtenAtMs: number;
}

export class StoreIndex {
  readonly #limits: StoreLimits;
  readonly #policy: EvictionPolicy;
  readonly #entries = new Map<BlockHash, Entry>();
  #numBytes = 0;

  constructor(limits: StoreLimits) {
    this.#limits = limits;
    this.#policy = createEvictionPolicy(limits.policy);
  }

  get numBlocks(): number {
    return this.#entries.size;
  }

  get numBytes(): number {
    return this.#numBytes;
  }

  hashes(): IterableIterator<BlockHash> {
    return this.#entries.keys();
  }

  has(hash: BlockHash): boolean {
    return this.#entries.has(hash);
  }

  isExpired(hash: BlockHash, nowMs: number): boolean {
    const { ttlMs } = this.#limits;
    const entry = this.#entries.get(hash);
    return entry !== undefined && ttlMs !== null && nowMs - entry.writtenAtMs >= ttlMs;
  }

  /** True if a block of this size could ever be held. */
  fits(numBytes: number): boolean {
    return this.#limits.capacityBytes === null || numBytes <= this.#limits.capacityBytes;
  }

  /** Replaces what was known of the block. */
  add(hash: BlockHash, entry: Entry, position: ChainPosition): void {
    this.remove(hash);
    this.#entries.set(hash, entry);
    this.#numBytes += entry.numBytes;
    this.#policy.add(hash, position);
  }

  touch(hash: BlockHash, chain: string | null): void {
    if (this.#entries.has(hash)) this.#policy.touch(hash, chain);
  }

  /** False if it was not held. */
  remove(hash: BlockHash): boolean {
    const entry = this.#entries.get(hash);
    if (!entry) return false;
    this.#entries.delete(hash);
    this.#numBytes -= entry.numBytes;
    this.#policy.remove(hash);
    return true;
  }

  /** Removes what must go for the capacity to be kept with `numNewBytes` more, and names it. */
  evictFor(numNewBytes: number): BlockHash[] {
    const { capacityBytes } = this.#limits;
    const evicted: BlockHash[] = [];
    if (capacityBytes === null) return evicted;
    while (this.#numBytes + numNewBytes > capacityBytes) {
      const hash = this.#policy.victim();
      if (hash === undefined) break;
      this.remove(hash);
      evicted.push(hash);
    }
    return evicted;
  }

  /** Removes what is older than the TTL, and names it. O(blocks). */
  expire(nowMs: number): BlockHash[] {
    if (this.#limits.ttlMs === null) return [];
    const expired = [...this.#entries.keys()].filter((hash) => this.isExpired(hash, nowMs));
    for (const hash of expired) this.remove(hash);
    return expired;
  }
}
