// Keeps conversations whole: the one idle for longest goes first, and of it the tail before the head.
import type { BlockHash } from '../wire.js';
import type { EvictionPolicy } from './eviction-policy.js';
import type { ChainPosition } from './kv-store.js';

interface Link {
  readonly hash: BlockHash;
  readonly index: number;
}

/**
 * A block is of no use without all blocks before it, so what is cut from a chain's end costs least. A block that several
 * conversations begin with belongs to the one that used it last.
 */
export class SessionPolicy implements EvictionPolicy {
  /** Idle for longest first; each sorted by index. */
  readonly #chains = new Map<string, Link[]>();
  readonly #positions = new Map<BlockHash, ChainPosition>();

  add(hash: BlockHash, { chain, index }: ChainPosition): void {
    this.#positions.set(hash, { chain, index });
    const links = this.#renew(chain);
    let at = links.length;
    while (at > 0 && links[at - 1]!.index > index) at -= 1;
    links.splice(at, 0, { hash, index });
  }

  touch(hash: BlockHash, chain: string | null): void {
    const position = this.#positions.get(hash);
    if (!position) return;
    if (chain === null || chain === position.chain) {
      this.#renew(position.chain);
      return;
    }
    this.remove(hash);
    this.add(hash, { chain, index: position.index });
  }

  remove(hash: BlockHash): void {
    const position = this.#positions.get(hash);
    if (!position) return;
    this.#positions.delete(hash);
    const links = this.#chains.get(position.chain)!;
    // Blocks leave from the end, as a rule.
    const at = links.findLastIndex((link) => link.hash === hash);
    links.splice(at, 1);
    if (links.length === 0) this.#chains.delete(position.chain);
  }

  victim(): BlockHash | undefined {
    const idle = this.#chains.values().next().value;
    return idle?.at(-1)?.hash;
  }

  /** The chain, as the most recently used one. */
  #renew(chain: string): Link[] {
    const links = this.#chains.get(chain) ?? [];
    this.#chains.delete(chain);
    this.#chains.set(chain, links);
    return links;
  }
}
