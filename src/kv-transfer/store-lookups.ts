// Which of a waiting prompt's blocks the stores hold: asked in the background as soon as the request is known.
import type { StoreTier } from '../kv-store/kv-store.js';
import type { BlockHash } from '../wire.js';

/** What the connector needs of a node's stores. */
export interface BlockStores {
  tiersOf(hash: BlockHash): readonly StoreTier[];
  /** Asks the stores, for `tiersOf` to know. Never rejects, and ends in bounded time. */
  locate(hashes: readonly BlockHash[]): Promise<void>;
  /** Takes a peer's word that the shared tier has these. */
  believe(hashes: readonly BlockHash[]): void;
  /** Null where no store of the tier has the block. Never rejects. */
  read(tier: StoreTier, hashes: readonly BlockHash[], chain: string): Promise<readonly (Uint8Array | null)[]>;
}

export class StoreLookups {
  readonly #stores: Pick<BlockStores, 'locate'>;
  readonly #pending = new Map<string, object>();
  #wake: () => void = () => {};

  constructor(stores: Pick<BlockStores, 'locate'>) {
    this.#stores = stores;
  }

  /** Called when a lookup has ended. */
  onProgress(wake: () => void): void {
    this.#wake = wake;
  }

  begin(requestId: string, hashes: readonly BlockHash[]): void {
    if (hashes.length === 0) return;
    const lookup = {};
    this.#pending.set(requestId, lookup);
    void this.#stores.locate(hashes).finally(() => {
      // Another request may have taken the id since.
      if (this.#pending.get(requestId) !== lookup) return;
      this.#pending.delete(requestId);
      this.#wake();
    });
  }

  isPending(requestId: string): boolean {
    return this.#pending.has(requestId);
  }

  /** The request has ended; nobody waits any more. */
  forget(requestId: string): void {
    this.#pending.delete(requestId);
  }
}
