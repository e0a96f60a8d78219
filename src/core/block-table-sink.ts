// Where the prefix map's rows are shown to peers: the native pool's table in an engine, a recorder in a test.
import type { BlockHash } from '../wire.js';

/** `KvPool` of the native module has this shape. */
export interface BlockTableSink {
  /** Says that the block now holds exactly the tokens named by `hash`. */
  publish(blockId: number, hash: BlockHash): void;
  /** Says that the block's contents may change from now on. */
  retract(blockId: number): void;
}
