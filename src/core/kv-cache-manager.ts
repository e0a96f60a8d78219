// The KV cache manager: requests' block tables over the pool, prefix hits, holds for peers.
import type { CacheConfig } from '../config.js';
import type { Request } from '../request.js';
import type { BlockHash, Tier } from '../wire.js';
import { BlockHolds } from './block-holds.js';
import { BlockPool } from './block-pool.js';
import type { BlockTableSink } from './block-table-sink.js';
import type { KVCacheBlock } from './free-block-queue.js';

interface BlockTable {
  readonly blocks: KVCacheBlock[];
  /** The same blocks' ids: handed out live, grows while the request runs, never shrinks. */
  readonly blockIds: number[];
  /** Leading blocks that are complete and named. */
  numCachedBlocks: number;
}

/** What a request brings along, or leaves for others, when it gets its first blocks. */
export interface Admission {
  /** From `getComputedBlocks`. */
  readonly hit: readonly KVCacheBlock[];
  /** Tokens behind the hit that will be loaded from a peer. */
  readonly numExternalTokens: number;
  /** Free blocks that requests admitted before still need. */
  readonly numReservedBlocks: number;
}

/** A full block that can be found from now on. */
export interface CachedBlock {
  readonly blockId: number;
  readonly hash: BlockHash;
  readonly request: Request;
  /** 0 = the prompt's first block. */
  readonly index: number;
}

/** What the manager is told about storage beyond the pool, and whom it tells of new blocks. */
export interface ExternalStorage {
  /** Tiers that hold the block, as far as this node knows. */
  tiersOf(hash: BlockHash): readonly Tier[];
  /** Called in the middle of scheduling; its contents are complete now and may be gone later. */
  onBlockCached(block: CachedBlock): void;
}

const noBlockIds: readonly number[] = [];
const noTiers: readonly Tier[] = [];
/** One for all blocks: a long prompt has thousands. */
const localOnly: readonly Tier[] = ['local'];

export class KVCacheManager {
  readonly blockSize: number;
  readonly #enablePrefixCaching: boolean;
  readonly #pool: BlockPool;
  readonly #holds: BlockHolds;
  readonly #external: ExternalStorage | null;
  readonly #tables = new Map<string, BlockTable>();

  constructor(config: CacheConfig, sink: BlockTableSink, external: ExternalStorage | null = null) {
    this.#external = external;
    this.blockSize = config.blockSize;
    this.#enablePrefixCaching = config.enablePrefixCaching;
    this.#pool = new BlockPool(config.numBlocks, sink);
    this.#holds = new BlockHolds(this.#pool, sink);
  }

  get numBlocks(): number {
    return this.#pool.numBlocks;
  }

  get numFreeBlocks(): number {
    return this.#pool.numFreeBlocks;
  }

  get numCachedBlocks(): number {
    return this.#pool.numCachedBlocks;
  }

  get numHolds(): number {
    return this.#holds.size;
  }

  /** 0–1 of the blocks that can be allocated. */
  get usage(): number {
    return this.#pool.usage;
  }

  /**
   * Blocks of the longest cached prefix, full ones only, never covering the request's last token: at least that one
   * must run for there to be logits. No effect on order, reference counts or statistics.
   */
  getComputedBlocks(request: Request): KVCacheBlock[] {
    const blocks: KVCacheBlock[] = [];
    if (!this.#enablePrefixCaching) return blocks;
    const maxBlocks = Math.max(0, Math.floor((request.numTokens - 1) / this.blockSize));
    let previous: KVCacheBlock | null = null;
    for (let i = 0; i < maxBlocks; i += 1) {
      const block = this.#pool.getCachedBlock(request.blockHashes[i]!, previous);
      if (!block) break;
      blocks.push(block);
      previous = block;
    }
    return blocks;
  }

  /** True if a block with these contents can be found. */
  isCached(hash: BlockHash): boolean {
    return this.#pool.getCachedBlock(hash) !== null;
  }

  /** Where a block can be had without computing it: the pool, and what is known of the stores. */
  mediaOf(hash: BlockHash, isLocal = this.isCached(hash)): readonly Tier[] {
    const external = this.#external?.tiersOf(hash) ?? noTiers;
    if (!isLocal) return external;
    return external.length === 0 ? localOnly : ['local', ...external];
  }

  /**
   * Gives a request its first blocks: those of the hit, and new ones for external tokens and `numNewTokens` behind it.
   * Returns its whole table, live; null, without any effect, if that does not fit, or if the whole sequence does not
   * beside what is reserved for others: what is begun can be finished.
   */
  admit(request: Request, numNewTokens: number, admission: Admission): readonly number[] | null {
    const { hit, numExternalTokens, numReservedBlocks } = admission;
    const numOldTokens = hit.length * this.blockSize + numExternalTokens;
    const numNewBlocks = Math.max(0, this.#numBlocksFor(numOldTokens + numNewTokens) - hit.length);
    const numWholeBlocks = this.#numBlocksFor(request.numTokens) - hit.length;
    const numEvictableHits = hit.reduce((count, block) => count + (block.refCnt === 0 ? 1 : 0), 0);
    const numAvailable = this.#pool.numFreeBlocks - numEvictableHits - numReservedBlocks;
    if (Math.max(numNewBlocks, numWholeBlocks) > numAvailable) return null;
    // First the hit: it may lie among the free blocks, and the new ones are taken from there.
    this.#pool.touch(hit);
    const table: BlockTable = { blocks: [], blockIds: [], numCachedBlocks: hit.length };
    append(table, hit);
    append(table, this.#pool.getNewBlocks(numNewBlocks));
    this.#tables.set(request.requestId, table);
    return table.blockIds;
  }

  /**
   * Gives a request that was admitted blocks for `numNewTokens` behind its computed ones. Returns its whole table, live;
   * null, without any effect, if they do not fit.
   */
  allocateSlots(request: Request, numNewTokens: number): readonly number[] | null {
    const table = this.#tables.get(request.requestId)!;
    const numNewBlocks = this.#numBlocksFor(request.numComputedTokens + numNewTokens) - table.blocks.length;
    if (numNewBlocks > this.#pool.numFreeBlocks) return null;
    append(table, this.#pool.getNewBlocks(numNewBlocks));
    return table.blockIds;
  }

  /** The request's KV is complete up to `numTokens`: its full blocks can be found from now on. */
  cacheBlocks(request: Request, numTokens: number): void {
    const table = this.#tables.get(request.requestId);
    if (!table || !this.#enablePrefixCaching) return;
    const numFullBlocks = Math.floor(numTokens / this.blockSize);
    for (; table.numCachedBlocks < numFullBlocks; table.numCachedBlocks += 1) {
      const i = table.numCachedBlocks;
      const block = table.blocks[i]!;
      const hash = request.blockHashes[i]!;
      this.#pool.cacheBlock(block, hash);
      if (i > 0) table.blocks[i - 1]!.successor = block;
      this.#external?.onBlockCached({ blockId: block.blockId, hash, request, index: i });
    }
  }

  /** Blocks that the request still needs to compute all tokens it has. */
  numMissingBlocks(request: Request): number {
    const numOwned = this.#tables.get(request.requestId)?.blocks.length ?? 0;
    return Math.max(0, this.#numBlocksFor(request.numTokens) - numOwned);
  }

  /** The request's block table, live; empty when it has none. */
  getBlockIds(request: Request): readonly number[] {
    return this.#tables.get(request.requestId)?.blockIds ?? noBlockIds;
  }

  free(request: Request): void {
    const table = this.#takeTable(request);
    if (table) this.#pool.freeBlocks(table.blocks.toReversed());
  }

  /**
   * Keeps the blocks named by `hashes`, from the first one on, under the request's id until `endHold`; frees the others.
   * The last hash may be that of a partial block.
   */
  holdRequest(request: Request, hashes: readonly BlockHash[]): void {
    const blocks = this.#takeTable(request)?.blocks ?? [];
    this.#pool.freeBlocks(blocks.slice(hashes.length).reverse());
    this.#holds.takeOver(request.requestId, blocks.slice(0, hashes.length), hashes);
  }

  /** Keeps cached blocks under this id until `endHold`. */
  pin(id: string, blocks: readonly KVCacheBlock[]): void {
    this.#holds.pin(id, blocks);
  }

  hasHold(id: string): boolean {
    return this.#holds.has(id);
  }

  endHold(id: string): void {
    this.#holds.end(id);
  }

  /** As `BlockPool.resetPrefixCache`. */
  resetPrefixCache(options: { readonly onlyFree: boolean }): boolean {
    return this.#pool.resetPrefixCache(options);
  }

  /** Throws INTERNAL unless every block is where tables, holds and free queue say. */
  checkInvariants(): void {
    const refCounts = new Uint32Array(this.#pool.numBlocks);
    for (const { blocks } of this.#tables.values()) {
      for (const { blockId } of blocks) refCounts[blockId]! += 1;
    }
    this.#holds.countRefs(refCounts);
    this.#pool.checkInvariants(refCounts);
  }

  #numBlocksFor(numTokens: number): number {
    return Math.ceil(numTokens / this.blockSize);
  }

  /** The table leaves as a whole, since a step under way may still read its ids. */
  #takeTable(request: Request): BlockTable | null {
    const table = this.#tables.get(request.requestId);
    if (!table) return null;
    this.#tables.delete(request.requestId);
    return table;
  }
}

function append({ blocks, blockIds }: BlockTable, added: readonly KVCacheBlock[]): void {
  for (const block of added) {
    blocks.push(block);
    blockIds.push(block.blockId);
  }
}
