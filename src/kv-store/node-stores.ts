// All stores of one node as one: where a block is, its bytes, and new blocks on their way into every tier.
import type { BlockHash } from '../wire.js';
import { BlockMarks } from './block-marks.js';
import type { ChainPosition, KVStore, StoreMedium, StoreStats, StoreTier } from './kv-store.js';
import { WriteBehind, type WriteBehindStats } from './write-behind.js';

export interface NamedStoreStats extends StoreStats, WriteBehindStats {
  readonly tier: StoreTier;
  readonly medium: StoreMedium;
}

interface Attached {
  readonly store: KVStore;
  readonly writes: WriteBehind;
}

export class NodeStores {
  /** The cheapest first: memory, disk, shared. */
  readonly #stores: readonly Attached[];
  readonly #marks = new BlockMarks();

  constructor(stores: readonly KVStore[]) {
    this.#stores = stores.map((store) => {
      const mark = (isHeld: boolean) => (hash: BlockHash) => this.#marks.mark(hash, store.tier, isHeld);
      store.onRemoved(mark(false));
      return { store, writes: new WriteBehind(store, (hashes) => hashes.forEach(mark(true))) };
    });
  }

  get isEmpty(): boolean {
    return this.#stores.length === 0;
  }

  /** As far as this node knows, without asking. */
  tiersOf(hash: BlockHash): readonly StoreTier[] {
    return this.#marks.tiersOf(hash);
  }

  /** Asks every store; the answers are remembered as marks. Never rejects. */
  async locate(hashes: readonly BlockHash[]): Promise<void> {
    const answers = await Promise.all(
      this.#stores.map(async ({ store }) => ({
        tier: store.tier,
        held: await store.has(hashes).catch(() => hashes.map(() => false)),
      })),
    );
    for (const tier of ['dedicated', 'shared'] as const) {
      const ofTier = answers.filter((answer) => answer.tier === tier);
      if (ofTier.length === 0) continue;
      for (const [i, hash] of hashes.entries()) {
        this.#marks.mark(
          hash,
          tier,
          ofTier.some(({ held }) => held[i] === true),
        );
      }
    }
  }

  /** A peer says that these are in the shared tier; whether they are is found out when they are read. */
  believe(hashes: readonly BlockHash[]): void {
    if (!this.#stores.some(({ store }) => store.tier === 'shared')) return;
    for (const hash of hashes) this.#marks.mark(hash, 'shared', true);
  }

  /** Blocks of one tier; null where none of its stores has them. Never rejects. */
  async read(
    tier: StoreTier,
    hashes: readonly BlockHash[],
    chain: string,
  ): Promise<readonly (Uint8Array | null)[]> {
    const found: (Uint8Array | null)[] = hashes.map(() => null);
    for (const { store } of this.#stores) {
      if (store.tier !== tier) continue;
      const wanted = hashes.flatMap((_, i) => (found[i] ? [] : [i]));
      if (wanted.length === 0) break;
      const asked = wanted.map((i) => hashes[i]!);
      const blocks = await store.get(asked, chain).catch(() => asked.map(() => null));
      for (const [at, i] of wanted.entries()) found[i] = blocks[at] ?? null;
    }
    for (const [i, hash] of hashes.entries()) this.#marks.mark(hash, tier, found[i] !== null);
    return found;
  }

  /** Takes a new block, if any store wants it; `copy` is called at most once, at once. */
  save(hash: BlockHash, position: ChainPosition, numBytes: number, copy: () => Uint8Array | null): void {
    const marked = this.#marks.tiersOf(hash);
    const wanting = this.#stores.filter(
      ({ store, writes }) => !marked.includes(store.tier) && writes.accepts(hash, numBytes),
    );
    if (wanting.length === 0) return;
    const data = copy();
    if (!data) return;
    for (const { writes } of wanting) writes.add({ hash, data, ...position });
  }

  /** Resolves when all that was taken is written or dropped. */
  async flush(): Promise<void> {
    await Promise.all(this.#stores.map(({ writes }) => writes.flush()));
  }

  stats(): NamedStoreStats[] {
    return this.#stores.map(({ store, writes }) => ({
      ...store.stats(),
      ...writes.stats(),
      tier: store.tier,
      medium: store.medium,
    }));
  }

  async close(): Promise<void> {
    await Promise.all(this.#stores.map(({ writes }) => writes.close()));
    await Promise.all(this.#stores.map(({ store }) => store.close()));
  }
}
