// Cache queries: the longest cached prefix of a prompt, looked up without touching anything, leased if asked for.
import type { KVConnectorScheduler } from '../kv-transfer/connector.js';
import type { Request } from '../request.js';
import type { CacheQueryAnswer, Tier } from '../wire.js';
import type { KVCacheManager } from './kv-cache-manager.js';

export interface CacheQueryParts {
  readonly engineId: string;
  readonly kvCache: KVCacheManager;
  /** Null = no leases. */
  readonly connector: KVConnectorScheduler | null;
}

export class CacheQueries {
  readonly #parts: CacheQueryParts;
  readonly #queries = new Map<string, Request>();

  constructor(parts: CacheQueryParts) {
    this.#parts = parts;
  }

  get size(): number {
    return this.#queries.size;
  }

  has(requestId: string): boolean {
    return this.#queries.has(requestId);
  }

  add(request: Request): void {
    this.#queries.set(request.requestId, request);
  }

  /** False if there is none of that id. */
  remove(requestId: string): boolean {
    return this.#queries.delete(requestId);
  }

  /** All of them, in one pass. */
  answer(): CacheQueryAnswer[] {
    const answers: CacheQueryAnswer[] = [];
    // Deleted one by one: the table that Map.clear() leaves behind keeps its entries, and with them all hashes of a long
    // prompt, through every short round of the garbage collector, which then copies them (20 ms for 24 queries).
    for (const [requestId, request] of this.#queries) {
      this.#queries.delete(requestId);
      answers.push(answerCacheQuery(request, this.#parts));
    }
    return answers;
  }
}

/** Tokens are full blocks and never cover the prompt's last one, since no hit does. */
function answerCacheQuery(
  request: Request,
  { engineId, kvCache, connector }: CacheQueryParts,
): CacheQueryAnswer {
  const blocks = kvCache.getComputedBlocks(request);
  const blockIds = blocks.map(({ blockId }) => blockId);
  const numTokens = blocks.length * kvCache.blockSize;
  const wantsLease = request.cacheQuery?.lease === true && blocks.length > 0;
  const lease = wantsLease && connector ? connector.grantLease(request, blockIds, numTokens) : null;
  if (lease) kvCache.pin(lease.id, blocks);
  return {
    object: 'cache_query',
    engine_id: engineId,
    request_id: request.requestId,
    block_size: kvCache.blockSize,
    num_prompt_tokens: request.numPromptTokens,
    num_tokens: numTokens,
    num_blocks: blocks.length,
    block_ids: blockIds,
    block_hashes: request.blockHashes.slice(0, blocks.length),
    tier: 'local',
    block_tiers: tiersOfPrefix(request, blocks.length, kvCache),
    lease: lease && { id: lease.id, expires_in_ms: lease.expiresInMs },
    kv_transfer_params: lease?.kvTransferParams ?? null,
  };
}

/** One entry a block, up to the first that lies nowhere; the first `numLocal` are known to be in the pool. */
function tiersOfPrefix(
  { blockHashes, numPromptTokens }: Request,
  numLocal: number,
  kvCache: KVCacheManager,
): (readonly Tier[])[] {
  const numUsable = Math.floor((numPromptTokens - 1) / kvCache.blockSize);
  const tiers: (readonly Tier[])[] = [];
  for (let i = 0; i < numUsable; i += 1) {
    const media = i < numLocal ? kvCache.mediaOf(blockHashes[i]!, true) : kvCache.mediaOf(blockHashes[i]!);
    if (media.length === 0) break;
    tiers.push(media);
  }
  return tiers;
}
