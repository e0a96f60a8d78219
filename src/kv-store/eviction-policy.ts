// Which block leaves a full store next: four policies behind one interface.
import type { EvictionPolicyName } from '../config.js';
import type { BlockHash } from '../wire.js';
import type { ChainPosition } from './kv-store.js';
import { SessionPolicy } from './session-policy.js';

/** Knows every block of a store, by hash; synchronous. */
export interface EvictionPolicy {
  /** A block that was not held. */
  add(hash: BlockHash, position: ChainPosition): void;
  /** A held block was used, by this conversation if it is known. */
  touch(hash: BlockHash, chain: string | null): void;
  remove(hash: BlockHash): void;
  /** Stays held until it is removed; undefined when nothing is. */
  victim(): BlockHash | undefined;
}

/** First in, first out; `renew` makes it least recently used. */
class QueuePolicy implements EvictionPolicy {
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

/** Least frequently used; among equals the one that came to that count first. */
class FrequencyPolicy implements EvictionPolicy {
  readonly #counts = new Map<BlockHash, number>();
  readonly #byCount = new Map<number, Set<BlockHash>>();

  add(hash: BlockHash): void {
    this.#enter(hash, 1);
  }

  touch(hash: BlockHash): void {
    const count = this.#counts.get(hash);
    if (count === undefined) return;
    this.remove(hash);
    this.#enter(hash, count + 1);
  }

  remove(hash: BlockHash): void {
    const count = this.#counts.get(hash);
    if (count === undefined) return;
    this.#counts.delete(hash);
    const equals = this.#byCount.get(count)!;
    equals.delete(hash);
    if (equals.size === 0) this.#byCount.delete(count);
  }

  victim(): BlockHash | undefined {
    if (this.#byCount.size === 0) return undefined;
    const least = Math.min(...this.#byCount.keys());
    return this.#byCount.get(least)!.values().next().value;
  }

  #enter(hash: BlockHash, count: number): void {
    this.#counts.set(hash, count);
    const equals = this.#byCount.get(count) ?? new Set();
    this.#byCount.set(count, equals.add(hash));
  }
}

const policies: Readonly<Record<EvictionPolicyName, () => EvictionPolicy>> = {
  lru: () => new QueuePolicy({ renew: true }),
  fifo: () => new QueuePolicy({ renew: false }),
  lfu: () => new FrequencyPolicy(),
  session: () => new SessionPolicy(),
};

export function createEvictionPolicy(name: EvictionPolicyName): EvictionPolicy {
  return policies[name]();
}
