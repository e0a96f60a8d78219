// fifo and lru: one line of blocks, the first of which leaves.
import type { BlockHash } from '../wire.js';
import type { EvictionPolicy } from './eviction-policy.js';

/** First in, first out; `renew` makes it least recently used. */
export class QueuePolicy implements EvictionPolicy {
  readonly #queue = new Set<BlockHash>();
  readonly #renew: boolean;

  constructor(options: { readonly renew: boolean }) {
    this.#renew = options.renew;
  }

  add(hash: BlockHash): void {
    this.#queue.add(hash);
  }

  touch(hash: BlockHash): void {
    if (this.#renew && this.#queue.delete(hash)) this.#queue.add(hash);
  }

  remove(hash: BlockHash): void {
    this.#queue.delete(hash);
  }

  victim(): BlockHash | undefined {
    return this.#queue.values().next().value;
  }
}
