// The stores that a node was configured with.
import type { KvStoreConfig, StoreTierConfig } from '../config.js';
import { DirectoryStore } from './directory-store.js';
import { GuardedStore } from './guarded-store.js';
import type { KVStore } from './kv-store.js';
import { MemoryStore } from './memory-store.js';
import { NodeStores } from './node-stores.js';
import { RedisStore } from './redis-store.js';
import type { StoreLimits } from './store-index.js';

export interface StoredBlocks {
  /** 64 hex digits of what blocks must agree on to be exchanged: model, KV layout and type, block size, hash seed. */
  readonly namespace: string;
  readonly blockBytes: number;
}

/** Throws INVALID_ARGUMENT for a directory that cannot be written or an address that is none; nothing stays open then. */
export async function openStores(config: KvStoreConfig, blocks: StoredBlocks): Promise<NodeStores> {
  const stores: KVStore[] = [];
  try {
    const { memoryBytes, directory, shared, dedicatedTier, sharedTier } = config;
    if (memoryBytes !== null) {
      stores.push(new MemoryStore({ ...limits(dedicatedTier), capacityBytes: memoryBytes, ...blocks }));
    }
    if (directory !== null) {
      stores.push(
        await DirectoryStore.open({ tier: 'dedicated', directory, ...limits(dedicatedTier), ...blocks }),
      );
    }
    if (shared !== null) stores.push(await openShared(shared, limits(sharedTier), blocks));
    return new NodeStores(stores.map((store) => new GuardedStore(store)));
  } catch (error) {
    await Promise.all(stores.map((store) => store.close()));
    throw error;
  }
}

function limits({ capacityBytes, ttlMs, policy }: StoreTierConfig): StoreLimits {
  return { capacityBytes, ttlMs, policy };
}

function openShared(address: string, tier: StoreLimits, blocks: StoredBlocks): Promise<KVStore> {
  if (/^[a-z]+:\/\//.test(address)) return RedisStore.open({ url: address, ...tier, ...blocks });
  return DirectoryStore.open({ tier: 'shared', directory: address, ...tier, ...blocks });
}
