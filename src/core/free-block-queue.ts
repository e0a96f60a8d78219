// A block's bookkeeping, and the queue of free blocks: least recently used first, O(1) removal from the middle.
import type { BlockHash } from '../wire.js';

export class KVCacheBlock {
  readonly blockId: number;
  /** Request tables and holds that have this block. In the free queue iff 0 (the null block excepted). */
  refCnt = 0;
  /** Set while the block is in the prefix map: its KV is complete, and it is exactly these tokens'. */
  blockHash: BlockHash | null = null;
  /** Where the next block of this one's chain was last seen; only its hash says whether it still is. */
  successor: KVCacheBlock | null = null;
  prev: KVCacheBlock | null = null;
  next: KVCacheBlock | null = null;

  constructor(blockId: number) {
    this.blockId = blockId;
  }
}

/** Intrusive doubly linked list; the fake ends spare every operation its special cases. */
export class FreeBlockQueue {
  readonly #head = new KVCacheBlock(-1);
  readonly #tail = new KVCacheBlock(-1);
  #size = 0;

  constructor() {
    this.#head.next = this.#tail;
    this.#tail.prev = this.#head;
  }

  get size(): number {
    return this.#size;
  }

  /** Reused next. */
  prepend(block: KVCacheBlock): void {
    this.#insertBetween(this.#head, block, this.#head.next!);
  }

  /** Reused last. */
  append(block: KVCacheBlock): void {
    this.#insertBetween(this.#tail.prev!, block, this.#tail);
  }

  popHead(): KVCacheBlock | null {
    const block = this.#head.next!;
    if (block === this.#tail) return null;
    this.remove(block);
    return block;
  }

  remove(block: KVCacheBlock): void {
    block.prev!.next = block.next;
    block.next!.prev = block.prev;
    block.prev = null;
    block.next = null;
    this.#size -= 1;
  }

  *[Symbol.iterator](): Generator<KVCacheBlock> {
    for (let block = this.#head.next!; block !== this.#tail; block = block.next!) yield block;
  }

  #insertBetween(prev: KVCacheBlock, block: KVCacheBlock, next: KVCacheBlock): void {
    block.prev = prev;
    block.next = next;
    prev.next = block;
    next.prev = block;
    this.#size += 1;
  }
}
