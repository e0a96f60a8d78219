// A store that cannot hurt: calls that fail or take too long are misses, and one that keeps failing is left alone for a while.
import { messageOf } from '../errors.js';
import { createLogger } from '../log.js';
import type { BlockHash } from '../wire.js';
import type { KVStore, StoredBlock, StoreMedium, StoreStats, StoreTier } from './kv-store.js';

export interface GuardOptions {
  /** Longest wait for an answer to `has`. Default 500 ms. */
  readonly lookupTimeoutMs?: number;
  /** Longest wait for blocks, read or written. Default 5 s. */
  readonly transferTimeoutMs?: number;
  /** How long a store that failed is left alone: doubles with every failure in a row. Default 250 ms, at most 30 s. */
  readonly firstPauseMs?: number;
  readonly maxPauseMs?: number;
}

const log = createLogger('kv-store');

export class GuardedStore implements KVStore {
  readonly tier: StoreTier;
  readonly medium: StoreMedium;
  readonly #store: KVStore;
  readonly #options: Required<GuardOptions>;
  #numFailures = 0;
  #numInARow = 0;
  #resumesAtMs = 0;

  constructor(store: KVStore, options: GuardOptions = {}) {
    this.#store = store;
    this.tier = store.tier;
    this.medium = store.medium;
    this.#options = {
      lookupTimeoutMs: 500,
      transferTimeoutMs: 5000,
      firstPauseMs: 250,
      maxPauseMs: 30_000,
      ...options,
    };
  }

  /** False while the store is left alone. */
  get isOpen(): boolean {
    return performance.now() >= this.#resumesAtMs;
  }

  has(hashes: readonly BlockHash[]): Promise<readonly boolean[]> {
    const nothing = hashes.map(() => false);
    if (hashes.length === 0) return Promise.resolve(nothing);
    return this.#try('has', this.#options.lookupTimeoutMs, () => this.#store.has(hashes), nothing);
  }

  get(hashes: readonly BlockHash[], chain?: string): Promise<readonly (Uint8Array | null)[]> {
    const nothing = hashes.map(() => null);
    if (hashes.length === 0) return Promise.resolve(nothing);
    return this.#try('get', this.#options.transferTimeoutMs, () => this.#store.get(hashes, chain), nothing);
  }

  put(blocks: readonly StoredBlock[]): Promise<number> {
    return this.#try('put', this.#options.transferTimeoutMs, () => this.#store.put(blocks), 0);
  }

  onRemoved(listener: (hash: BlockHash) => void): void {
    this.#store.onRemoved(listener);
  }

  stats(): StoreStats {
    const stats = this.#store.stats();
    return { ...stats, numFailures: stats.numFailures + this.#numFailures };
  }

  close(): Promise<void> {
    return this.#store.close();
  }

  /** Never rejects. */
  async #try<T>(what: string, timeoutMs: number, work: () => Promise<T>, otherwise: T): Promise<T> {
    if (!this.isOpen) return otherwise;
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
    });
    try {
      const result = await Promise.race([work(), timeout]);
      this.#numInARow = 0;
      return result;
    } catch (error) {
      this.#failed(what, error);
      return otherwise;
    } finally {
      clearTimeout(timer);
    }
  }

  #failed(what: string, error: unknown): void {
    const { firstPauseMs, maxPauseMs } = this.#options;
    const pauseMs = Math.min(firstPauseMs * 2 ** this.#numInARow, maxPauseMs);
    this.#numFailures += 1;
    this.#numInARow += 1;
    this.#resumesAtMs = performance.now() + pauseMs;
    const store = `${this.tier} ${this.medium}`;
    log.warn(
      { store, what, err: messageOf(error), pauseMs },
      'a KV store failed and is left alone for a while',
    );
  }
}
