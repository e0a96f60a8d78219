// Capacity and eviction of blocks in Redis: order lists in Redis itself, since many nodes write there.
import type { RedisClientType } from '@redis/client';
import type { EvictionPolicyName } from '../config.js';
import type { BlockHash } from '../wire.js';

export interface IndexedBlock {
  readonly hash: BlockHash;
  /** Id of the conversation. */
  readonly chain: string;
  readonly index: number;
}

//   order         sorted set of hashes: time of last use (lru, session), of writing (fifo), number of uses (lfu)
//   chains        session: sorted set of conversations, by time of last use
//   chain:<id>    session: sorted set of its hashes, by index
//   owner         session: hash → conversation
//
// A record that expired stays in the lists until its turn to be evicted comes; that costs room for others, nothing else.
export class RedisIndex {
  readonly maxBlocks: number;
  readonly #client: RedisClientType;
  readonly #prefix: string;
  readonly #policy: EvictionPolicyName;

  constructor(client: RedisClientType, prefix: string, policy: EvictionPolicyName, maxBlocks: number) {
    this.#client = client;
    this.#prefix = prefix;
    this.#policy = policy;
    this.maxBlocks = maxBlocks;
  }

  /** Enters written blocks; returns those that must go for the capacity to be kept. Their records stay the caller's. */
  async add(
    blocks: readonly IndexedBlock[],
  ): Promise<{ readonly evicted: readonly BlockHash[]; readonly numBlocks: number }> {
    const client = this.#client;
    const order = this.#key('order');
    const now = Date.now();
    // Blocks of one write keep their order.
    const entries = blocks.map(({ hash }, i) => ({
      value: hash,
      score: this.#policy === 'lfu' ? 1 : now + i / 1000,
    }));
    const condition = this.#policy === 'fifo' || this.#policy === 'lfu' ? { condition: 'NX' as const } : {};
    await Promise.all([
      client.zAdd(order, entries, condition),
      ...(this.#policy === 'session' ? blocks.map((block) => this.#join(block, now)) : []),
    ]);
    const numBlocks = await client.zCard(order);
    const numTooMany = numBlocks - this.maxBlocks;
    if (numTooMany <= 0) return { evicted: [], numBlocks };
    const evicted =
      this.#policy === 'session' ? await this.#evictTails(numTooMany) : await this.#evictFirst(numTooMany);
    return { evicted, numBlocks: numBlocks - evicted.length };
  }

  /** The blocks were read, by this conversation if it is known. */
  async touch(hashes: readonly BlockHash[], chain: string | null): Promise<void> {
    if (hashes.length === 0 || this.#policy === 'fifo') return;
    const client = this.#client;
    const order = this.#key('order');
    if (this.#policy === 'lfu') {
      await Promise.all(hashes.map((hash) => client.zIncrBy(order, 1, hash)));
      return;
    }
    const now = Date.now();
    const entries = hashes.map((hash, i) => ({ value: hash, score: now + i / 1000 }));
    await client.zAdd(order, entries, { condition: 'XX' });
    if (this.#policy === 'session') await this.#renewChains(hashes, chain, now);
  }

  async #renewChains(hashes: readonly BlockHash[], chain: string | null, now: number): Promise<void> {
    const owners = await this.#client.hmGet(this.#key('owner'), [...hashes]);
    await Promise.all(
      hashes.map(async (hash, i) => {
        const owner = owners[i];
        if (!owner) return;
        if (chain === null || chain === owner) {
          await this.#client.zAdd(this.#key('chains'), { value: owner, score: now });
          return;
        }
        const index = await this.#client.zScore(this.#key(`chain:${owner}`), hash);
        await this.#client.zRem(this.#key(`chain:${owner}`), hash);
        await this.#join({ hash, chain, index: index ?? 0 }, now);
      }),
    );
  }

  async #join({ hash, chain, index }: IndexedBlock, now: number): Promise<void> {
    const client = this.#client;
    const before = await client.hGet(this.#key('owner'), hash);
    if (before && before !== chain) await client.zRem(this.#key(`chain:${before}`), hash);
    await Promise.all([
      client.zAdd(this.#key('chains'), { value: chain, score: now }),
      client.zAdd(this.#key(`chain:${chain}`), { value: hash, score: index }),
      client.hSet(this.#key('owner'), hash, chain),
    ]);
  }

  async #evictFirst(numBlocks: number): Promise<BlockHash[]> {
    const popped = await this.#client.zPopMinCount(this.#key('order'), numBlocks);
    return popped.map(({ value }) => value);
  }

  /** From the conversation idle for longest, from its end. */
  async #evictTails(numBlocks: number): Promise<BlockHash[]> {
    const client = this.#client;
    const evicted: BlockHash[] = [];
    while (evicted.length < numBlocks) {
      const [idle] = await client.zRange(this.#key('chains'), 0, 0);
      if (idle === undefined) break;
      const links = await client.zPopMaxCount(this.#key(`chain:${idle}`), numBlocks - evicted.length);
      if (links.length === 0) await client.zRem(this.#key('chains'), idle);
      evicted.push(...links.map(({ value }) => value));
    }
    if (evicted.length > 0) {
      await Promise.all([client.zRem(this.#key('order'), evicted), client.hDel(this.#key('owner'), evicted)]);
    }
    return evicted;
  }

  #key(name: string): string {
    return this.#prefix + name;
  }
}
