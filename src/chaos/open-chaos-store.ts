// The shared store of a system, made for it.
import { openDirectory } from './chaos-directory.js';
import { openRedis } from './chaos-redis.js';
import type { ChaosStore, StoreKind } from './chaos-store.js';

/** Null for `none`. Throws NOT_SUPPORTED where redis-server is not installed. */
export async function openStore(kind: StoreKind): Promise<ChaosStore | null> {
  if (kind === 'directory') return openDirectory();
  return kind === 'redis' ? openRedis() : null;
}
