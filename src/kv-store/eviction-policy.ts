// Which block leaves a full store next.
import type { BlockHash } from '../wire.js';
import type { ChainPosition } from './kv-store.js';

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
