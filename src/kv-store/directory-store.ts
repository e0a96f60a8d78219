// Blocks as files in a directory: on the node's disk, or on a file system that several nodes share.
import { randomUUID } from 'node:crypto';
import { open, readFile, rename, rm, stat, unlink, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { hasCode, messageOf, VllmPdError } from '../errors.js';
import { createLogger } from '../log.js';
import { makeFolder } from '../make-folder.js';
import type { BlockHash } from '../wire.js';
import { chainIdOf, decodeChain, decodeRecord, encodeRecord, recordHeaderBytes } from './block-record.js';
import { removeStaleTemporaries, scanBlocks } from './directory-scan.js';
import {
  type KVStore,
  StoreCounters,
  type StoredBlock,
  type StoreStats,
  type StoreTier,
} from './kv-store.js';
import { StoreIndex, type StoreLimits } from './store-index.js';

export interface DirectoryStoreOptions extends StoreLimits {
  readonly tier: StoreTier;
  readonly directory: string;
  readonly namespace: string;
  readonly blockBytes: number;
  /** Wall clock, ms. Default Date.now. */
  readonly now?: () => number;
  /** How often other writers' files are looked at, and old ones removed. Default 30 s. */
  readonly rescanMs?: number;
}

const log = createLogger('kv-store');

/** Files that are read or written at the same time. */
const numAtOnce = 8;
/** A use is written down, for other processes to see, no more often than this. */
const touchIntervalMs = 60_000;

//   <directory>/<namespace, 16 digits>/<hash, 2 digits>/<hash>.kv
//                                     /tmp/<uuid>            renamed into place when it is complete
//
// Any number of processes may write: a file appears as a whole or not at all, its name says what must be in it, and two
// writers of one block write the same bytes. mtime: when it was written. atime: when it was last used.
export class DirectoryStore implements KVStore {
  readonly tier: StoreTier;
  readonly medium = 'directory';
  readonly #options: DirectoryStoreOptions;
  readonly #root: string;
  readonly #now: () => number;
  readonly #index: StoreIndex;
  readonly #counters = new StoreCounters();
  readonly #touchedAtMs = new Map<BlockHash, number>();
  readonly #madeFolders = new Set<string>();
  #removed: (hash: BlockHash) => void = () => {};
  #timer: NodeJS.Timeout | null = null;
  #scan: Promise<void> = Promise.resolve();
  #isClosed = false;

  private constructor(options: DirectoryStoreOptions) {
    this.tier = options.tier;
    this.#options = options;
    this.#root = path.join(options.directory, options.namespace.slice(0, 16));
    this.#now = options.now ?? Date.now;
    this.#index = new StoreIndex(options);
  }

  /** Reads what is there already. Throws INVALID_ARGUMENT when the directory cannot be written. */
  static async open(options: DirectoryStoreOptions): Promise<DirectoryStore> {
    const store = new DirectoryStore(options);
    try {
      await makeFolder(store.#folder('tmp'));
      const probe = store.#temporary();
      await writeFile(probe, '');
      await unlink(probe);
    } catch (cause) {
      const message = `Expected a directory that can be written but ${options.directory} cannot: ${messageOf(cause)}.`;
      throw new VllmPdError('INVALID_ARGUMENT', message, { cause, param: 'kv-store' });
    }
    await removeStaleTemporaries(store.#folder('tmp'), Date.now());
    await store.rescan();
    store.#timer = setInterval(() => void store.rescan(), options.rescanMs ?? 30_000).unref();
    return store;
  }

  async has(hashes: readonly BlockHash[]): Promise<readonly boolean[]> {
    return inBatches(hashes, async (hash) => {
      if (this.tier === 'dedicated') return this.#index.has(hash) && !(await this.#dropIfExpired(hash));
      // Others write and remove here too: only the file system knows.
      const found = await stat(this.#file(hash)).catch(() => null);
      if (!found) {
        this.#forget(hash);
        return false;
      }
      this.#learn(hash, found);
      return !(await this.#dropIfExpired(hash));
    });
  }

  async get(hashes: readonly BlockHash[], chain?: string): Promise<readonly (Uint8Array | null)[]> {
    return inBatches(hashes, async (hash) => {
      const data = await this.#read(hash);
      this.#counters.read(data);
      if (data) await this.#touch(hash, chain ?? null);
      return data;
    });
  }

  async put(blocks: readonly StoredBlock[]): Promise<number> {
    const numBytes = recordHeaderBytes + this.#options.blockBytes;
    if (!this.#index.fits(numBytes)) return 0;
    const written = await inBatches(blocks, async (block) => {
      const { hash } = block;
      const chain = chainIdOf(block.chain);
      if (this.#index.has(hash) && !(await this.#dropIfExpired(hash))) {
        this.#index.touch(hash, chain);
        return;
      }
      // Made room for and entered at once, so that writes under way count against the capacity.
      const evicted = this.#index.evictFor(numBytes);
      this.#index.add(hash, { numBytes, writtenAtMs: this.#now() }, { chain, index: block.index });
      try {
        await this.#removeEvicted(evicted);
        await this.#write(block);
      } catch (error) {
        this.#index.remove(hash);
        throw error;
      }
      this.#counters.bytesWritten += block.data.length;
    });
    return written.length;
  }

  onRemoved(listener: (hash: BlockHash) => void): void {
    this.#removed = listener;
  }

  stats(): StoreStats {
    return this.#counters.stats(this.#index.numBlocks, this.#index.numBytes);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    if (this.#timer) clearInterval(this.#timer);
    await this.#scan;
  }

  /** Learns of files that others wrote, forgets those that are gone, removes what is too old or too much. */
  rescan(): Promise<void> {
    this.#scan = this.#scan
      .then(() => this.#rescan())
      .catch((error: unknown) => {
        log.warn({ err: messageOf(error), directory: this.#root }, 'a KV store could not be looked through');
      });
    return this.#scan;
  }

  async #rescan(): Promise<void> {
    const found = new Set<BlockHash>();
    const files = await scanBlocks(this.#root, () => this.#isClosed);
    // Used least recently first, so that they enter the policy in that order.
    for (const { hash, numBytes, writtenAtMs } of files) {
      found.add(hash);
      if (this.#index.has(hash)) continue;
      const position = this.#options.policy === 'session' ? await this.#chainOf(hash) : null;
      this.#index.add(hash, { numBytes, writtenAtMs }, position ?? { chain: hash, index: 0 });
    }
    if (this.#isClosed) return;
    for (const hash of [...this.#index.hashes()]) {
      // A block that is being written is in the index before its file is there.
      if (!found.has(hash) && !(await stat(this.#file(hash)).catch(() => null))) this.#forget(hash);
    }
    for (const hash of this.#index.expire(this.#now())) {
      this.#counters.numExpired += 1;
      await this.#unlink(hash);
    }
    await this.#removeEvicted(this.#index.evictFor(0));
  }

  async #read(hash: BlockHash): Promise<Uint8Array | null> {
    if (await this.#dropIfExpired(hash)) return null;
    let record: Buffer;
    try {
      record = await readFile(this.#file(hash));
    } catch (error) {
      if (!hasCode(error, 'ENOENT')) throw error;
      this.#forget(hash);
      return null;
    }
    const data = decodeRecord(record, { ...this.#options, hash });
    if (data) return data;
    this.#counters.numCorrupt += 1;
    log.warn({ file: this.#file(hash) }, 'a stored block is not what it should be and is removed');
    this.#index.remove(hash);
    await this.#unlink(hash);
    return null;
  }

  async #write(block: StoredBlock): Promise<void> {
    const file = this.#file(block.hash);
    const folder = path.dirname(file);
    if (!this.#madeFolders.has(folder)) {
      await makeFolder(folder);
      this.#madeFolders.add(folder);
    }
    const temporary = this.#temporary();
    try {
      await writeFile(temporary, encodeRecord(block, this.#options.namespace));
      await rename(temporary, file);
    } catch (error) {
      // Somebody may have removed the folders.
      this.#madeFolders.clear();
      await makeFolder(this.#folder('tmp')).catch(() => {});
      await rm(temporary, { force: true }).catch(() => {});
      throw error;
    }
  }

  async #removeEvicted(evicted: readonly BlockHash[]): Promise<void> {
    for (const hash of evicted) {
      this.#counters.numEvicted += 1;
      await this.#unlink(hash);
    }
  }

  async #dropIfExpired(hash: BlockHash): Promise<boolean> {
    if (!this.#index.isExpired(hash, this.#now())) return false;
    this.#counters.numExpired += 1;
    this.#index.remove(hash);
    await this.#unlink(hash);
    return true;
  }

  /** Another writer's file. */
  #learn(hash: BlockHash, found: { readonly size: number; readonly mtimeMs: number }): void {
    if (this.#index.has(hash)) return;
    const entry = { numBytes: found.size, writtenAtMs: found.mtimeMs };
    this.#index.add(hash, entry, { chain: hash, index: 0 });
  }

  async #touch(hash: BlockHash, chain: string | null): Promise<void> {
    this.#index.touch(hash, chain === null ? null : chainIdOf(chain));
    const nowMs = this.#now();
    if (nowMs - (this.#touchedAtMs.get(hash) ?? 0) < touchIntervalMs) return;
    this.#touchedAtMs.set(hash, nowMs);
    const file = this.#file(hash);
    const { mtime } = await stat(file).catch(() => ({ mtime: null }));
    if (mtime) await utimes(file, new Date(nowMs), mtime).catch(() => {});
  }

  async #chainOf(hash: BlockHash) {
    const file = await open(this.#file(hash)).catch(() => null);
    if (!file) return null;
    try {
      const header = Buffer.alloc(recordHeaderBytes);
      const { bytesRead } = await file.read(header, 0, recordHeaderBytes, 0);
      return decodeChain(header.subarray(0, bytesRead));
    } finally {
      await file.close();
    }
  }

  #forget(hash: BlockHash): void {
    this.#touchedAtMs.delete(hash);
    if (this.#index.remove(hash)) this.#removed(hash);
  }

  async #unlink(hash: BlockHash): Promise<void> {
    this.#touchedAtMs.delete(hash);
    this.#removed(hash);
    await rm(this.#file(hash), { force: true });
  }

  #folder(name: string): string {
    return path.join(this.#root, name);
  }

  #file(hash: BlockHash): string {
    return path.join(this.#root, hash.slice(0, 2), `${hash}.kv`);
  }

  #temporary(): string {
    return path.join(this.#root, 'tmp', randomUUID());
  }
}

/** Some at a time, results in order; rejects with the first failure, after those under way. */
async function inBatches<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (let begin = 0; begin < items.length; begin += numAtOnce) {
    const settled = await Promise.allSettled(items.slice(begin, begin + numAtOnce).map(work));
    for (const outcome of settled) {
      if (outcome.status === 'rejected') throw outcome.reason;
      results.push(outcome.value);
    }
  }
  return results;
}
