// Blocks in Redis or Valkey: shared by every node that can reach the server.
import type { RedisClientType } from '@redis/client';
import { messageOf, VllmPdError } from '../errors.js';
import { createLogger } from '../log.js';
import type { BlockHash } from '../wire.js';
import { chainIdOf, decodeRecord, encodeRecord, recordHeaderBytes } from './block-record.js';
import { type KVStore, StoreCounters, type StoredBlock, type StoreStats } from './kv-store.js';
import { RedisIndex } from './redis-index.js';
import type { StoreLimits } from './store-index.js';

export interface RedisStoreOptions extends StoreLimits {
  /** `redis://[user:password@]host:port[/database]`, or `rediss://` for TLS. */
  readonly url: string;
  readonly namespace: string;
  readonly blockBytes: number;
}

const log = createLogger('kv-store');

const connectTimeoutMs = 2000;
const maxReconnectDelayMs = 2000;
/** A silent connection is asked this often whether it lives. */
const pingIntervalMs = 5000;
/** Records of one command, so that no reply grows beyond a few MB. */
const numAtOnce = 16;

// Keys, all under `vllm-pd:<namespace, 16 digits>:`
//   b:<hash>   the record, expiring by PX
//   …          what RedisIndex keeps, where there is a capacity
export class RedisStore implements KVStore {
  readonly tier = 'shared';
  readonly medium = 'redis';
  readonly #options: RedisStoreOptions;
  readonly #client: RedisClientType;
  /** The same connection, with replies as bytes. */
  readonly #bytes: ReturnType<typeof asBytes>;
  readonly #index: RedisIndex | null;
  readonly #prefix: string;
  readonly #counters = new StoreCounters();
  #removed: (hash: BlockHash) => void = () => {};
  #numBlocks = 0;
  #isClosed = false;

  private constructor(
    options: RedisStoreOptions,
    client: RedisClientType,
    bytes: ReturnType<typeof asBytes>,
  ) {
    this.#options = options;
    this.#client = client;
    this.#bytes = bytes;
    this.#prefix = `vllm-pd:${options.namespace.slice(0, 16)}:`;
    const { capacityBytes, policy } = options;
    const maxBlocks =
      capacityBytes === null ? null : Math.floor(capacityBytes / (recordHeaderBytes + options.blockBytes));
    this.#index = maxBlocks === null ? null : new RedisIndex(client, this.#prefix, policy, maxBlocks);
  }

  /** Connects in the background, for as long as it takes: a server that is away is a store that holds nothing. */
  static async open(options: RedisStoreOptions): Promise<RedisStore> {
    const { createClient, RESP_TYPES } = await import('@redis/client');
    const client: RedisClientType = createClient({
      url: checkUrl(options.url),
      // Commands fail at once while there is no connection, instead of waiting for one.
      disableOfflineQueue: true,
      pingInterval: pingIntervalMs,
      socket: {
        connectTimeout: connectTimeoutMs,
        reconnectStrategy: (retries) => Math.min(50 * 2 ** retries, maxReconnectDelayMs),
      },
    });
    const store = new RedisStore(options, client, asBytes(client, RESP_TYPES.BLOB_STRING));
    let wasReported = false;
    client.on('error', (error: unknown) => {
      if (!wasReported)
        log.warn({ err: messageOf(error) }, 'the KV store does not answer; it counts as empty');
      wasReported = true;
    });
    client.on('ready', () => {
      wasReported = false;
    });
    client.connect().catch(() => {});
    return store;
  }

  /** Whether there is a connection now. */
  get isConnected(): boolean {
    return this.#client.isReady;
  }

  async has(hashes: readonly BlockHash[]): Promise<readonly boolean[]> {
    if (!this.isConnected) return hashes.map(() => false);
    const found = await Promise.all(hashes.map((hash) => this.#client.exists(this.#key(hash))));
    return found.map((count) => count === 1);
  }

  async get(hashes: readonly BlockHash[], chain?: string): Promise<readonly (Uint8Array | null)[]> {
    const results: (Uint8Array | null)[] = [];
    for (let begin = 0; begin < hashes.length; begin += numAtOnce) {
      const asked = hashes.slice(begin, begin + numAtOnce);
      const records: (Buffer | null)[] = this.isConnected
        ? await this.#bytes.mGet(asked.map((hash) => this.#key(hash)))
        : asked.map(() => null);
      for (const [i, hash] of asked.entries()) results.push(this.#check(hash, records[i] ?? null));
      if (!this.isConnected) continue;
      const held = asked.filter((_, i) => results[begin + i]);
      await this.#index?.touch(held, chain === undefined ? null : chainIdOf(chain));
    }
    return results;
  }

  async put(blocks: readonly StoredBlock[]): Promise<number> {
    if (!this.isConnected || this.#index?.maxBlocks === 0) return 0;
    const { ttlMs, namespace } = this.#options;
    const options = ttlMs === null ? {} : { expiration: { type: 'PX', value: ttlMs } as const };
    for (let begin = 0; begin < blocks.length; begin += numAtOnce) {
      const part = blocks.slice(begin, begin + numAtOnce);
      await Promise.all(
        part.map((block) => this.#client.set(this.#key(block.hash), encodeRecord(block, namespace), options)),
      );
      this.#counters.bytesWritten += part.reduce((sum, { data }) => sum + data.length, 0);
      if (this.#index) await this.#account(part, this.#index);
    }
    return blocks.length;
  }

  onRemoved(listener: (hash: BlockHash) => void): void {
    this.#removed = listener;
  }

  /** Sizes are those of the last write, over all writers; 0 where no capacity was set, since nobody counts then. */
  stats(): StoreStats {
    return this.#counters.stats(
      this.#numBlocks,
      this.#numBlocks * (recordHeaderBytes + this.#options.blockBytes),
    );
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#client.destroy();
  }

  async #account(blocks: readonly StoredBlock[], index: RedisIndex): Promise<void> {
    const positions = blocks.map(({ hash, chain, index: at }) => ({
      hash,
      chain: chainIdOf(chain),
      index: at,
    }));
    const { evicted, numBlocks } = await index.add(positions);
    this.#numBlocks = numBlocks;
    if (evicted.length === 0) return;
    this.#counters.numEvicted += evicted.length;
    await this.#client.unlink(evicted.map((hash) => this.#key(hash)));
    for (const hash of evicted) this.#removed(hash);
  }

  #check(hash: BlockHash, record: Buffer | null): Uint8Array | null {
    const data = record ? decodeRecord(record, { ...this.#options, hash }) : null;
    this.#counters.read(data);
    if (!data) this.#removed(hash);
    if (record && !data) {
      this.#counters.numCorrupt += 1;
      log.warn({ hash }, 'a stored block is not what it should be and is removed');
      this.#client.unlink(this.#key(hash)).catch(() => {});
    }
    return data;
  }

  #key(hash: BlockHash): string {
    return `${this.#prefix}b:${hash}`;
  }
}

/** Blob replies as Buffer. */
function asBytes(client: RedisClientType, blobType: 36) {
  return client.withTypeMapping({ [blobType]: Buffer });
}

function checkUrl(url: string): string {
  if (URL.canParse(url) && /^rediss?:$/.test(new URL(url).protocol)) return url;
  const message = `Expected an address such as redis://127.0.0.1:6379 but received \`${url}\`.`;
  throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'kv-shared-store' });
}
