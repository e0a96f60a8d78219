// A node's own KV pool, and a peer's: checks arguments and hands them to the native module.
import { VllmPdError } from '../errors.js';
import type { KvPlace, KvPool, KvPoolLayout, PeerPool } from '../native.js';
import { type Addon, cross, crossAsync, type PeerHandle, type PoolHandle } from './addon.js';
import {
  blockBytesOf,
  checkByteLength,
  checkLayout,
  toBlockIds,
  toHashBytes,
  wholeNumber,
} from './arguments.js';

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
  readonly #addon: Addon;
  readonly #handle: PeerHandle;

  constructor(addon: Addon, pid: number, fd: number, layout: KvPoolLayout) {
    const numbers = checkLayout(layout);
    wholeNumber('pid', pid, 1);
    wholeNumber('fd', fd, 0);
    this.#addon = addon;
    this.layout = { ...layout };
    this.#handle = cross(() => addon.openPeerPool(pid, fd, numbers));
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
