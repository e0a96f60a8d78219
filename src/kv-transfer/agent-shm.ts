// Reading a peer's blocks from its mapped pool: one-sided, the owner takes no part.
import type { KvPool, PeerPool } from '../native/kv-pool.js';
import type { PullSpec } from '../outputs.js';
import type { ReadResult, TransferPath } from './agent.js';
import { countValid } from './messages.js';

/** A mapping that outlives its owner's connection for as long as reads use it. */
export class MappedPool {
  readonly #pool: PeerPool;
  readonly #reads = new Set<Promise<Uint8Array>>();
  #isClosing = false;

  constructor(pool: PeerPool) {
    this.#pool = pool;
  }

  /** How its blocks get into `into`. */
  pathTo(into: KvPool): TransferPath {
    if (this.#pool.place !== into.place) return 'staged';
    return into.place === 'device' ? 'cuda_ipc' : 'shm';
  }

  async read(pull: PullSpec, into: KvPool): Promise<ReadResult> {
    const reading = this.#pool.read(into, pull.remoteBlockIds, pull.localBlockIds, pull.blockHashes);
    this.#reads.add(reading);
    try {
      const valid = await reading;
      return { valid, numBytes: countValid(valid) * into.blockBytes };
    } finally {
      this.#reads.delete(reading);
    }
  }

  /** Waits for reads under way, then unmaps. */
  async close(): Promise<void> {
    if (this.#isClosing) return;
    this.#isClosing = true;
    await Promise.allSettled(this.#reads);
    this.#pool.close();
  }
}
