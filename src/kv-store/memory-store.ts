// Host memory beyond the pool: one node's own, gone with its process.
import type { BlockHash } from '../wire.js';
import { decodeRecord, encodeRecord, recordHeaderBytes } from './block-record.js';
import { type KVStore, StoreCounters, type StoredBlock, type StoreStats } from './kv-store.js';
import { StoreIndex, type StoreLimits } from './store-index.js';

export interface MemoryStoreOptions extends StoreLimits {
  readonly namespace: string;
  readonly blockBytes: number;
  /** Wall clock, ms. Default Date.now. */
  readonly now?: () => number;
}

export class MemoryStore implements KVStore {
  readonly tier = 'dedicated';
  readonly medium = 'memory';
  readonly #options: MemoryStoreOptions;
  readonly #now: () => number;
  readonly #index: StoreIndex;
  readonly #records = new Map<BlockHash, Buffer>();
  readonly #counters = new StoreCounters();
  #removed: (hash: BlockHash) => void = () => {};

  constructor(options: MemoryStoreOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#index = new StoreIndex(options);
  }

  async has(hashes: readonly BlockHash[]): Promise<readonly boolean[]> {
    this.#expire();
    return hashes.map((hash) => this.#records.has(hash));
  }

  async get(hashes: readonly BlockHash[], chain?: string): Promise<readonly (Uint8Array | null)[]> {
    this.#expire();
    return hashes.map((hash) => {
      const record = this.#records.get(hash);
      const data = record ? decodeRecord(record, { ...this.#options, hash }) : null;
      if (record && !data) {
        this.#counters.numCorrupt += 1;
        this.#drop(hash);
      }
      this.#index.touch(hash, chain ?? null);
      this.#counters.read(data);
      return data;
    });
  }

  async put(blocks: readonly StoredBlock[]): Promise<number> {
    const numBytes = recordHeaderBytes + this.#options.blockBytes;
    if (!this.#index.fits(numBytes)) return 0;
    this.#expire();
    for (const block of blocks) {
      if (this.#records.has(block.hash)) {
        this.#index.touch(block.hash, block.chain);
        continue;
      }
      for (const hash of this.#index.evictFor(numBytes)) {
        this.#counters.numEvicted += 1;
        this.#drop(hash);
      }
      this.#records.set(block.hash, encodeRecord(block, this.#options.namespace));
      this.#index.add(block.hash, { numBytes, writtenAtMs: this.#now() }, block);
      this.#counters.bytesWritten += block.data.length;
    }
    return blocks.filter(({ hash }) => this.#records.has(hash)).length;
  }

  onRemoved(listener: (hash: BlockHash) => void): void {
    this.#removed = listener;
  }

  stats(): StoreStats {
    return this.#counters.stats(this.#index.numBlocks, this.#index.numBytes);
  }

  async close(): Promise<void> {
    this.#records.clear();
    for (const hash of [...this.#index.hashes()]) this.#index.remove(hash);
  }

  #expire(): void {
    for (const hash of this.#index.expire(this.#now())) {
      this.#counters.numExpired += 1;
      this.#drop(hash);
    }
  }

  #drop(hash: BlockHash): void {
    this.#records.delete(hash);
    this.#index.remove(hash);
    this.#removed(hash);
  }
}
