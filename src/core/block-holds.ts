// Blocks kept for a peer beyond the life of a request: what a finished request left behind, and leases of cache queries.
import { VllmPdError } from '../errors.js';
import type { BlockHash } from '../wire.js';
import type { BlockPool } from './block-pool.js';
import type { BlockTableSink } from './block-table-sink.js';
import type { KVCacheBlock } from './free-block-queue.js';

interface Hold {
  readonly blocks: readonly KVCacheBlock[];
  /** Named in the sink for this hold only: the prefix map does not know them. */
  readonly publishedBlockIds: readonly number[];
}

export class BlockHolds {
  readonly #pool: BlockPool;
  readonly #sink: BlockTableSink;
  readonly #holds = new Map<string, Hold>();

  constructor(pool: BlockPool, sink: BlockTableSink) {
    this.#pool = pool;
    this.#sink = sink;
  }

  get size(): number {
    return this.#holds.size;
  }

  has(id: string): boolean {
    return this.#holds.has(id);
  }

  /**
   * Takes over one use of each block. `hashes[i]` is what block i holds; the rows of those that the prefix map does not
   * know (a partial last block, or all when prefix caching is off) are shown while the hold lasts.
   */
  takeOver(id: string, blocks: readonly KVCacheBlock[], hashes: readonly BlockHash[]): void {
    const publishedBlockIds: number[] = [];
    for (const [i, block] of blocks.entries()) {
      if (block.blockHash !== null) continue;
      this.#sink.publish(block.blockId, hashes[i]!);
      publishedBlockIds.push(block.blockId);
    }
    this.#holds.set(id, { blocks, publishedBlockIds });
  }

  /** Adds a use to each block, all of them cached. */
  pin(id: string, blocks: readonly KVCacheBlock[]): void {
    this.#pool.touch(blocks);
    this.#holds.set(id, { blocks, publishedBlockIds: [] });
  }

  /** Throws INTERNAL when there is no such hold, since its blocks would be freed twice. */
  end(id: string): void {
    const hold = this.#holds.get(id);
    if (!hold) throw new VllmPdError('INTERNAL', `Expected a hold ${id} to end but there is none`);
    this.#holds.delete(id);
    for (const blockId of hold.publishedBlockIds) this.#sink.retract(blockId);
    this.#pool.freeBlocks(hold.blocks.toReversed());
  }

  /** Adds the holds' uses to `refCounts`, one count a block. */
  countRefs(refCounts: Uint32Array): void {
    for (const { blocks } of this.#holds.values()) {
      for (const { blockId } of blocks) refCounts[blockId]! += 1;
    }
  }
}
