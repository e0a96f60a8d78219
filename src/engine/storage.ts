// A node's storage beyond its pool, as the engine's parts need it: stores, lookups, the planner, and what costs how much.
import { createHash } from 'node:crypto';
import type { EngineConfig } from '../config.js';
import type { ExternalStorage } from '../core/kv-cache-manager.js';
import type { NodeStores } from '../kv-store/node-stores.js';
import { openStores } from '../kv-store/open-stores.js';
import { TransferCosts } from '../kv-transfer/cost-model.js';
import { chainOf, LoadPlanner } from '../kv-transfer/load-planner.js';
import { StoreLookups } from '../kv-transfer/store-lookups.js';
import type { KvPool } from '../native/kv-pool.js';

export interface Storage {
  readonly stores: NodeStores;
  readonly lookups: StoreLookups;
  readonly costs: TransferCosts;
  readonly planner: LoadPlanner;
  /** Null when no store was configured. */
  readonly external: ExternalStorage | null;
}

/** `compatibility`: what two nodes must agree on to exchange KV. Throws what opening a store throws. */
export async function openStorage(
  { kvStore, cache, kvTransfer }: EngineConfig,
  pool: KvPool,
  compatibility: string,
): Promise<Storage> {
  const { blockBytes } = pool;
  const namespace = namespaceOf(pool, compatibility);
  const stores = await openStores(kvStore, { namespace, blockBytes });
  const lookups = new StoreLookups(stores);
  const costs = new TransferCosts();
  const planner = new LoadPlanner({
    blockSize: cache.blockSize,
    blockBytes,
    minTokens: kvTransfer.kvRecomputeThreshold,
    hopPlanner: kvStore.hopPlanner,
    costs,
    stores: stores.isEmpty ? null : { blocks: stores, lookups },
  });
  return { stores, lookups, costs, planner, external: stores.isEmpty ? null : externalOf(stores, pool) };
}

/** Blocks of other weights, shapes, number types or seeds are never found, whatever lies in a store. */
function namespaceOf({ layout }: KvPool, compatibility: string): string {
  const shape = JSON.stringify({ ...layout, numBlocks: null });
  return createHash('sha256')
    .update(JSON.stringify([compatibility, shape]))
    .digest('hex');
}

function externalOf(stores: NodeStores, pool: KvPool): ExternalStorage {
  return {
    tiersOf: (hash) => stores.tiersOf(hash),
    onBlockCached({ blockId, hash, request, index }) {
      stores.save(hash, { chain: chainOf(request), index }, pool.blockBytes, () => {
        const { data, valid } = pool.copyOut([blockId], [hash]);
        return valid[0] === 1 ? data : null;
      });
    },
  };
}
