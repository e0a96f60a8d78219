// The pool of KV blocks: who has which, which are free in what order, and which can be found by content.
import { VllmPdError } from '../errors.js';
import type { BlockHash } from '../wire.js';
import type { BlockTableSink } from './block-table-sink.js';
import { FreeBlockQueue, KVCacheBlock } from './free-block-queue.js';

//   block 0        the null block: never allocated, never freed, not counted
//   refCnt > 0     in request tables or held for a peer
//   refCnt = 0     in the free queue:   head → [no hash, reused first] … [hashed, least recently used first] → tail
//
// A hashed free block is still found by `getCachedBlock`; taking it as a new block is what evicts it.
export class BlockPool {
  readonly #blocks: readonly KVCacheBlock[];
  readonly #free = new FreeBlockQueue();
  /** Several blocks may hold the same tokens: tables are append-only, so nothing is merged. */
  readonly #cached = new Map<BlockHash, KVCacheBlock | Set<KVCacheBlock>>();
  readonly #sink: BlockTableSink;
  #numCachedBlocks = 0;

  constructor(numBlocks: number, sink: BlockTableSink) {
    this.#sink = sink;
    this.#blocks = Array.from({ length: numBlocks }, (_, blockId) => new KVCacheBlock(blockId));
    for (const block of this.#blocks.slice(1)) this.#free.append(block);
  }

  get numBlocks(): number {
    return this.#blocks.length;
  }

  get numFreeBlocks(): number {
    return this.#free.size;
  }

  get numCachedBlocks(): number {
    return this.#numCachedBlocks;
  }

  /** 0–1 of the blocks that can be allocated. */
  get usage(): number {
    return 1 - this.#free.size / (this.#blocks.length - 1);
  }

  /**
   * No effect on order or reference counts. `previous`: the block before it in a chain, whose successor is most often the
   * one that is wanted; comparing two hashes costs a fraction of looking one up that was never hashed.
   */
  getCachedBlock(hash: BlockHash, previous: KVCacheBlock | null = null): KVCacheBlock | null {
    const hint = previous?.successor;
    if (hint && hint.blockHash === hash) return hint;
    const found = this.#cached.get(hash);
    if (found === undefined) return null;
    return found instanceof KVCacheBlock ? found : found.values().next().value!;
  }

  /** The block is complete: names it in the prefix map and in the sink. */
  cacheBlock(block: KVCacheBlock, hash: BlockHash): void {
    block.blockHash = hash;
    this.#numCachedBlocks += 1;
    const found = this.#cached.get(hash);
    if (found === undefined) this.#cached.set(hash, block);
    else if (found instanceof KVCacheBlock) this.#cached.set(hash, new Set([found, block]));
    else found.add(block);
    this.#sink.publish(block.blockId, hash);
  }

  /** Takes the least recently used blocks; whatever they held is forgotten. The caller has checked `numFreeBlocks`. */
  getNewBlocks(numBlocks: number): KVCacheBlock[] {
    const blocks: KVCacheBlock[] = [];
    for (let i = 0; i < numBlocks; i += 1) {
      const block = this.#free.popHead();
      if (!block) {
        throw new VllmPdError('INTERNAL', `Expected ${numBlocks} free blocks but there were only ${i}`);
      }
      this.#evict(block);
      block.refCnt = 1;
      blocks.push(block);
    }
    return blocks;
  }

  /** One more user of each block; those that were free no longer are. */
  touch(blocks: readonly KVCacheBlock[]): void {
    for (const block of blocks) {
      if (block.refCnt === 0) this.#free.remove(block);
      block.refCnt += 1;
    }
  }

  /** One user less of each block. Pass a table in reverse, so that the end of a chain is evicted before its beginning. */
  freeBlocks(blocks: Iterable<KVCacheBlock>): void {
    for (const block of blocks) {
      if (block.refCnt === 0) {
        throw new VllmPdError('INTERNAL', `Expected block ${block.blockId} to be in use but it was free`);
      }
      block.refCnt -= 1;
      if (block.refCnt > 0) continue;
      if (block.blockHash === null) this.#free.prepend(block);
      else this.#free.append(block);
    }
  }

  /**
   * `onlyFree`: forgets every cached block that nobody uses; true. Otherwise forgets all of them, or none and false
   * while any block is in use.
   */
  resetPrefixCache({ onlyFree }: { readonly onlyFree: boolean }): boolean {
    if (!onlyFree && this.#free.size + 1 !== this.#blocks.length) return false;
    for (const block of this.#free) this.#evict(block);
    return true;
  }

  /** Throws INTERNAL unless free queue, prefix map and these reference counts (one a block) agree. */
  checkInvariants(refCounts: ArrayLike<number>): void {
    const free = new Set(this.#free);
    let numCachedBlocks = 0;
    for (const block of this.#blocks) {
      const { blockId, refCnt, blockHash } = block;
      const expectedRefCnt = refCounts[blockId]!;
      if (refCnt !== expectedRefCnt) {
        throw new VllmPdError(
          'INTERNAL',
          `Expected ${expectedRefCnt} users of block ${blockId} but its count is ${refCnt}`,
        );
      }
      if (free.has(block) !== (refCnt === 0 && blockId !== 0)) {
        throw new VllmPdError(
          'INTERNAL',
          `Block ${blockId} with ${refCnt} users is on the wrong side of the free queue`,
        );
      }
      if (blockHash === null) continue;
      numCachedBlocks += 1;
      const found = this.#cached.get(blockHash);
      if (found !== block && !(found instanceof Set && found.has(block))) {
        throw new VllmPdError('INTERNAL', `Block ${blockId} has a hash that the prefix map does not know`);
      }
    }
    if (numCachedBlocks !== this.#numCachedBlocks || free.size !== this.#free.size) {
      throw new VllmPdError('INTERNAL', 'The pool counts its free or cached blocks wrongly');
    }
  }

  #evict(block: KVCacheBlock): void {
    const hash = block.blockHash;
    if (hash === null) return;
    this.#sink.retract(block.blockId);
    block.blockHash = null;
    this.#numCachedBlocks -= 1;
    const found = this.#cached.get(hash);
    if (found instanceof Set && found.size > 1) found.delete(block);
    else this.#cached.delete(hash);
  }
}
