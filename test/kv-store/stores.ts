// Every kind of store behind one way to open it, for table-driven tests.
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { DirectoryStore } from '../../src/kv-store/directory-store.js';
import type { KVStore, StoredBlock } from '../../src/kv-store/kv-store.js';
import { MemoryStore } from '../../src/kv-store/memory-store.js';
import { RedisStore } from '../../src/kv-store/redis-store.js';
import type { StoreLimits } from '../../src/kv-store/store-index.js';
import type { RedisServer } from './redis-server.js';

export const blockBytes = 1000;
export const recordBytes = blockBytes + 128;
export const namespace = createHash('sha256').update('a model').digest('hex');

export interface OpenOptions extends Partial<StoreLimits> {
  readonly namespace?: string;
  readonly now?: () => number;
}

export interface StoreKind {
  readonly name: string;
  open(options?: OpenOptions): Promise<KVStore>;
  /** Bytes of the medium, changed behind the store's back; null where nobody can. */
  readonly corrupt: ((hash: string, change: (record: Buffer) => Buffer) => Promise<void>) | null;
  /** Where a block lies, of directories. */
  readonly fileOf?: (hash: string) => string;
  /** What every `open` sees is gone. */
  close(): void;
}

const unlimited: StoreLimits = { capacityBytes: null, ttlMs: null, policy: 'lru' };

export function memoryKind(): StoreKind {
  return {
    name: 'memory',
    open: async (options = {}) => new MemoryStore({ ...unlimited, namespace, blockBytes, ...options }),
    corrupt: null,
    close() {},
  };
}

export function directoryKind(tier: 'dedicated' | 'shared'): StoreKind {
  const directory = mkdtempSync(path.join(tmpdir(), 'vllm-pd-store-'));
  return {
    name: `${tier} directory`,
    open: (options = {}) =>
      DirectoryStore.open({ ...unlimited, tier, directory, namespace, blockBytes, ...options }),
    async corrupt(hash, change) {
      const file = fileOf(directory, hash);
      writeFileSync(file, change(readFileSync(file)));
    },
    fileOf: (hash) => fileOf(directory, hash),
    close: () => rmSync(directory, { recursive: true, force: true }),
  };
}

function fileOf(directory: string, hash: string): string {
  const found = readdirSync(directory, { recursive: true, encoding: 'utf8' });
  const name = found.find((file) => file.endsWith(`${hash}.kv`));
  if (!name) throw new Error(`no file of ${hash}`);
  return path.join(directory, name);
}

export function redisKind(server: RedisServer): StoreKind {
  return {
    name: 'redis',
    async open(options = {}) {
      const store = await RedisStore.open({
        ...unlimited,
        url: server.url,
        namespace,
        blockBytes,
        ...options,
      });
      await until(() => store.isConnected);
      return store;
    },
    async corrupt(hash, change) {
      const { createClient, RESP_TYPES } = await import('@redis/client');
      const client = createClient({ url: server.url });
      await client.connect();
      const key = `vllm-pd:${namespace.slice(0, 16)}:b:${hash}`;
      const record = await client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer }).get(key);
      await client.set(key, change(record!));
      await client.close();
    },
    close() {},
  };
}

export async function until(isTrue: () => boolean | Promise<boolean>, limitMs = 10_000): Promise<void> {
  const deadlineMs = performance.now() + limitMs;
  while (!(await isTrue())) {
    if (performance.now() > deadlineMs) throw new Error('what was waited for did not come');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export function blockOf(chain: string, index: number): StoredBlock {
  const hash = createHash('sha256').update(`${chain} ${index}`).digest('hex');
  const data = Uint8Array.from({ length: blockBytes }, (_, i) => (i * 7 + index * 13 + chain.length) % 256);
  return { hash, chain, index, data };
}

export const hashesOf = (blocks: readonly StoredBlock[]) => blocks.map(({ hash }) => hash);
