// lfu: the block that was used least leaves.
import type { BlockHash } from '../wire.js';
import type { EvictionPolicy } from './eviction-policy.js';

/** Least frequently used; among equals the one that came to that count first. */
export class FrequencyPolicy implements EvictionPolicy {
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
