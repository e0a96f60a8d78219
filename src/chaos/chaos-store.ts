// A shared store that fails when told to: what is in it is damaged or lost, and all of it stops answering for a while.
import { openDirectory } from './chaos-directory.js';
import { openRedis } from './chaos-redis.js';

export const storeKinds = ['none', 'directory', 'redis'] as const;
export type StoreKind = (typeof storeKinds)[number];

export interface ChaosStore {
  /** As `--kv-shared-store` takes it. */
  readonly address: string;
  /** Turns over bits in some of the blocks that are stored. */
  damage(): Promise<void>;
  /** Some blocks are gone (directory), or the server with all of them (Redis), which starts again. */
  lose(): Promise<void>;
  /** For `ms`, everything that is asked of it fails (directory) or waits (Redis). */
  stop(ms: number): Promise<void>;
  /** Nothing of it is left behind. */
  close(): Promise<void>;
}

/** Null for `none`. Throws NOT_SUPPORTED where redis-server is not installed. */
export async function openStore(kind: StoreKind): Promise<ChaosStore | null> {
  if (kind === 'directory') return openDirectory();
  return kind === 'redis' ? openRedis() : null;
}
