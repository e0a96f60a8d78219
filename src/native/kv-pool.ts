// A node's own KV pool, and a peer's: checks arguments and hands them to the native module.
import { VllmPdError } from '../errors.js';
import { type Addon, cross, crossAsync, type PeerHandle, type PoolHandle } from './addon.js';
import {
  blockBytesOf,
  checkByteLength,
  checkLayout,
  toBlockIds,
  toHashBytes,
  wholeNumber,
} from './arguments.js';
import type { KvPoolLayout } from './kv-pool-layout.js';

/** Where a pool's blocks lie: in the memfd, or on the GPU that this process computes on. */
export type KvPlace = 'host' | 'device';

/**
 * A node's KV blocks in a memfd, with a table of one row a block beside them (generation counter, SHA-256).
 * On a device only the table is in the memfd, and peers read the blocks through CUDA IPC.
 * Peers of the same user map it through `/proc/<pid>/fd/<fd>` and read it without asking.
 */
export interface KvPool {
  readonly layout: KvPoolLayout;
  /** num_layers * 2 * num_kv_heads * block_size * head_dim * 4 (float32) or 2 (bfloat16) */
  readonly blockBytes: number;
  /** Where the blocks lie; the table is the host's anyway. */
  readonly place: KvPlace;
  readonly fd: number;
  /** Says that the block now holds exactly the tokens named by `hash` (64 hex digits). */
  publish(blockId: number, hash: string): void;
  /** Says that the block's contents are about to change. Call before it is written again. */
  retract(blockId: number): void;
  /** `hash` null = nothing published. The generation changes with every publish and retract. */
  row(blockId: number): { readonly generation: number; readonly hash: string | null };
  /** The block's bytes, a live view. For tests and small reads. Throws NOT_SUPPORTED for blocks on a device. */
  block(blockId: number): Uint8Array;
  /**
   * Copies blocks out for a peer: each is copied only if its row says `hashes[i]` before and after.
   * `data` has blockIds.length * blockBytes bytes; `valid[i]` is 1 where block i is what was asked for. Synchronous.
   */
  copyOut(blockIds: readonly number[], hashes: readonly string[]): { data: Uint8Array; valid: Uint8Array };
  /** Copies `data` (blockIds.length * blockBytes bytes, in order) into the blocks. Synchronous. */
  copyIn(blockIds: readonly number[], data: Uint8Array): void;
  /** Unmaps and closes. Must not be called while a forward pass or a read uses the pool. Idempotent. */
  close(): void;
}

/** A peer's pool, mapped read-only. */
export interface PeerPool {
  readonly layout: KvPoolLayout;
  readonly place: KvPlace;
  /**
   * One-sided read, on native threads if it is long: copies remote block i into local block i of `into`, verified against
   * `hashes[i]` before and after. Resolves to one byte per block: 1 = arrived intact, 0 = stale (local bytes undefined).
   */
  read(
    into: KvPool,
    remoteBlockIds: readonly number[],
    localBlockIds: readonly number[],
    hashes: readonly string[],
  ): Promise<Uint8Array>;
  close(): void;
}

export class NativeKvPool implements KvPool {
  readonly layout: KvPoolLayout;
  readonly blockBytes: number;
  readonly place: KvPlace;
  readonly fd: number;
  readonly #addon: Addon;
  readonly #handle: PoolHandle;

  constructor(addon: Addon, layout: KvPoolLayout, place: KvPlace) {
    const numbers = checkLayout(layout);
    this.#addon = addon;
    this.place = place;
    this.layout = { ...layout };
    this.blockBytes = blockBytesOf(layout);
    this.#handle = cross(() => addon.createPool(numbers, place === 'device'));
    this.fd = cross(() => addon.poolFd(this.#handle));
  }

  /** Other classes' KvPools are no memory that the native module knows. */
  static handleOf(pool: KvPool): PoolHandle {
    if (pool instanceof NativeKvPool) return pool.#handle;
    throw new VllmPdError(
      'INVALID_ARGUMENT',
      'Expected a KvPool made by createPool but received another object.',
    );
  }

  publish(blockId: number, hash: string): void {
    const id = this.#blockId(blockId);
    const bytes = toHashBytes([hash]);
    cross(() => this.#addon.publish(this.#handle, id, bytes));
  }

  retract(blockId: number): void {
    const id = this.#blockId(blockId);
    cross(() => this.#addon.retract(this.#handle, id));
  }

  row(blockId: number): { readonly generation: number; readonly hash: string | null } {
    const id = this.#blockId(blockId);
    const hash = Buffer.alloc(32);
    const generation = cross(() => this.#addon.row(this.#handle, id, hash));
    return { generation, hash: generation % 2 === 0 ? hash.toString('hex') : null };
  }

  block(blockId: number): Uint8Array {
    const id = this.#blockId(blockId);
    return cross(() => this.#addon.block(this.#handle, id));
  }

  copyOut(blockIds: readonly number[], hashes: readonly string[]): { data: Uint8Array; valid: Uint8Array } {
    const ids = toBlockIds('blockIds', blockIds, this.layout.numBlocks);
    const bytes = toHashBytes(hashes, ids.length);
    return cross(() => {
      const data = new Uint8Array(ids.length * this.blockBytes);
      const valid = new Uint8Array(ids.length);
      this.#addon.copyOut(this.#handle, ids, bytes, data, valid);
      return { data, valid };
    });
  }

  copyIn(blockIds: readonly number[], data: Uint8Array): void {
    const ids = toBlockIds('blockIds', blockIds, this.layout.numBlocks);
    checkByteLength('data', data, ids.length * this.blockBytes);
    cross(() => this.#addon.copyIn(this.#handle, ids, data));
  }

  close(): void {
    this.#addon.closePool(this.#handle);
  }

  #blockId(blockId: number): number {
    return wholeNumber('blockId', blockId, 0, this.layout.numBlocks - 1);
  }
}

export class NativePeerPool implements PeerPool {
  readonly layout: KvPoolLayout;
  readonly place: KvPlace;
  readonly #addon: Addon;
  readonly #handle: PeerHandle;

  constructor(addon: Addon, pid: number, fd: number, layout: KvPoolLayout) {
    const numbers = checkLayout(layout);
    wholeNumber('pid', pid, 1);
    wholeNumber('fd', fd, 0);
    this.#addon = addon;
    this.layout = { ...layout };
    this.#handle = cross(() => addon.openPeerPool(pid, fd, numbers));
    this.place = cross(() => addon.peerPoolOnDevice(this.#handle)) ? 'device' : 'host';
  }

  async read(
    into: KvPool,
    remoteBlockIds: readonly number[],
    localBlockIds: readonly number[],
    hashes: readonly string[],
  ): Promise<Uint8Array> {
    const pool = NativeKvPool.handleOf(into);
    const remote = toBlockIds('remoteBlockIds', remoteBlockIds, this.layout.numBlocks);
    const local = toBlockIds('localBlockIds', localBlockIds, into.layout.numBlocks, remote.length);
    const bytes = toHashBytes(hashes, remote.length);
    return crossAsync(() => this.#addon.readPeerPool(this.#handle, pool, remote, local, bytes));
  }

  close(): void {
    this.#addon.closePeerPool(this.#handle);
  }
}
