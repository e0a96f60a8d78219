// Blocks on their way into one store: batched, bounded, in the background. What does not fit in the queue is not stored.
import type { BlockHash } from '../wire.js';
import type { KVStore, StoredBlock } from './kv-store.js';

/** Of blocks that wait. */
const defaultMaxQueuedBytes = 64 * 2 ** 20;
/** Of one write. */
const maxBatchBlocks = 32;

export interface WriteBehindStats {
  readonly numQueued: number;
  readonly queuedBytes: number;
  /** Blocks that found no room in the queue, or that the store did not take. */
  readonly numDropped: number;
  readonly numWritten: number;
}

export class WriteBehind {
  readonly #store: KVStore;
  readonly #maxQueuedBytes: number;
  readonly #onWritten: (hashes: readonly BlockHash[]) => void;
  readonly #queue = new Map<BlockHash, StoredBlock>();
  #queuedBytes = 0;
  #numDropped = 0;
  #numWritten = 0;
  #work: Promise<void> | null = null;
  #isClosed = false;

  /** `onWritten`: these blocks are held by the store now. */
  constructor(
    store: KVStore,
    onWritten: (hashes: readonly BlockHash[]) => void,
    maxQueuedBytes = defaultMaxQueuedBytes,
  ) {
    this.#store = store;
    this.#onWritten = onWritten;
    this.#maxQueuedBytes = maxQueuedBytes;
  }

  /** Whether a block of this size would be taken now: asked before it is copied. */
  accepts(hash: BlockHash, numBytes: number): boolean {
    if (this.#isClosed || this.#queue.has(hash)) return false;
    if (this.#queuedBytes + numBytes <= this.#maxQueuedBytes) return true;
    this.#numDropped += 1;
    return false;
  }

  /** Takes the block; it is written soon, or never. */
  add(block: StoredBlock): void {
    this.#queue.set(block.hash, block);
    this.#queuedBytes += block.data.length;
    this.#work ??= this.#run();
  }

  stats(): WriteBehindStats {
    return {
      numQueued: this.#queue.size,
      queuedBytes: this.#queuedBytes,
      numDropped: this.#numDropped,
      numWritten: this.#numWritten,
    };
  }

  /** Resolves when all that was taken is written or dropped. */
  async flush(): Promise<void> {
    while (this.#work) await this.#work;
  }

  /** Drops what waits, and resolves when nothing is being written. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#numDropped += this.#queue.size;
    this.#queue.clear();
    this.#queuedBytes = 0;
    await this.flush();
  }

  async #run(): Promise<void> {
    // Blocks of one step come one by one.
    await Promise.resolve();
    while (this.#queue.size > 0) {
      const batch = [...this.#queue.values()].slice(0, maxBatchBlocks);
      try {
        await this.#write(batch);
      } catch {
        this.#numDropped += batch.length;
      }
      for (const { hash, data } of batch) {
        if (this.#queue.delete(hash)) this.#queuedBytes -= data.length;
      }
    }
    this.#work = null;
  }

  async #write(batch: readonly StoredBlock[]): Promise<void> {
    // Another node may have written them; then only their bytes are saved.
    const held = await this.#store.has(batch.map(({ hash }) => hash));
    const missing = batch.filter((_, i) => !held[i]);
    const numWritten = missing.length === 0 ? 0 : await this.#store.put(missing);
    this.#numWritten += numWritten;
    this.#numDropped += missing.length - numWritten;
    const hashes = batch.map(({ hash }) => hash);
    const isHeld = numWritten === missing.length ? null : await this.#store.has(hashes);
    const written = isHeld ? hashes.filter((_, i) => isHeld[i]) : hashes;
    if (written.length > 0) this.#onWritten(written);
  }
}
