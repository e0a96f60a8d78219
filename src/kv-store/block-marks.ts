// Which tiers are thought to hold which blocks: what this node wrote, read or asked for. Hints, never promises.
import type { BlockHash } from '../wire.js';
import type { StoreTier } from './kv-store.js';

const bits: Readonly<Record<StoreTier, number>> = { dedicated: 1, shared: 2 };
const tiersByBits: readonly (readonly StoreTier[])[] = [
  [],
  ['dedicated'],
  ['shared'],
  ['dedicated', 'shared'],
];

/** About 16 MB. */
const maxBlocks = 1 << 17;

export class BlockMarks {
  readonly #marks = new Map<BlockHash, number>();

  tiersOf(hash: BlockHash): readonly StoreTier[] {
    return tiersByBits[this.#marks.get(hash) ?? 0]!;
  }

  mark(hash: BlockHash, tier: StoreTier, isHeld: boolean): void {
    const before = this.#marks.get(hash) ?? 0;
    const after = isHeld ? before | bits[tier] : before & ~bits[tier];
    this.#marks.delete(hash);
    if (after === 0) return;
    this.#marks.set(hash, after);
    if (this.#marks.size <= maxBlocks) return;
    this.#marks.delete(this.#marks.keys().next().value!);
  }
}
