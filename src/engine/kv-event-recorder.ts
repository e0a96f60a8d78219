// Notices which block contents come into the pool's prefix cache and which leave it, and tells of both once a step.
import type { BlockTableSink } from '../core/block-table-sink.js';
import type { CachedBlock, ExternalStorage } from '../core/kv-cache-manager.js';
import type { BlockHash } from '../wire.js';
import type { KvEvent } from './kv-events.js';

interface StoredRun {
  readonly first: CachedBlock;
  readonly hashes: BlockHash[];
}

type Pending =
  | { readonly type: 'stored'; readonly run: StoredRun }
  | { readonly type: 'removed'; readonly hashes: BlockHash[] }
  | { readonly type: 'cleared' };

export class KvEventRecorder {
  readonly #blockSize: number;
  readonly #publish: (events: readonly KvEvent[]) => void;
  readonly #hashOfBlock = new Map<number, BlockHash>();
  /** Blocks that hold these tokens: others learn of the first and of the last one only. */
  readonly #numCopies = new Map<BlockHash, number>();
  #pending: Pending[] = [];
  #flushing: NodeJS.Immediate | null = null;

  constructor(blockSize: number, publish: (events: readonly KvEvent[]) => void) {
    this.#blockSize = blockSize;
    this.#publish = publish;
  }

  /** The same storage, watched. */
  watchStored(external: ExternalStorage | null): ExternalStorage {
    return {
      tiersOf: (hash) => external?.tiersOf(hash) ?? [],
      onBlockCached: (block) => {
        this.#stored(block);
        external?.onBlockCached(block);
      },
    };
  }

  /** The same sink, watched. */
  watchRemoved(sink: BlockTableSink): BlockTableSink {
    return {
      publish: (blockId, hash) => sink.publish(blockId, hash),
      retract: (blockId) => {
        sink.retract(blockId);
        this.#removed(blockId);
      },
    };
  }

  /** The cache was reset; nothing is said unless it is empty now. */
  reset(): void {
    if (this.#numCopies.size > 0) return;
    this.#pending.push({ type: 'cleared' });
    this.#flushLater();
  }

  /** Publishes what is pending, now. */
  flush(): void {
    if (this.#flushing) clearImmediate(this.#flushing);
    this.#flushing = null;
    if (this.#pending.length === 0) return;
    const events = this.#pending.map((pending) => this.#eventOf(pending));
    this.#pending = [];
    this.#publish(events);
  }

  #stored(block: CachedBlock): void {
    const { blockId, hash, request, index } = block;
    this.#hashOfBlock.set(blockId, hash);
    const numCopies = this.#numCopies.get(hash) ?? 0;
    this.#numCopies.set(hash, numCopies + 1);
    if (numCopies > 0) return;
    const last = this.#pending.at(-1);
    const run = last?.type === 'stored' ? last.run : null;
    if (run && run.first.request === request && run.first.index + run.hashes.length === index) {
      run.hashes.push(hash);
    } else {
      this.#pending.push({ type: 'stored', run: { first: block, hashes: [hash] } });
    }
    this.#flushLater();
  }

  #removed(blockId: number): void {
    const hash = this.#hashOfBlock.get(blockId);
    // A partly filled block, shown to one peer only.
    if (hash === undefined) return;
    this.#hashOfBlock.delete(blockId);
    const numCopies = (this.#numCopies.get(hash) ?? 1) - 1;
    if (numCopies > 0) {
      this.#numCopies.set(hash, numCopies);
      return;
    }
    this.#numCopies.delete(hash);
    const last = this.#pending.at(-1);
    if (last?.type === 'removed') last.hashes.push(hash);
    else this.#pending.push({ type: 'removed', hashes: [hash] });
    this.#flushLater();
  }

  /** Behind the step, when its outputs are on their way. */
  #flushLater(): void {
    this.#flushing ??= setImmediate(() => this.flush());
  }

  #eventOf(pending: Pending): KvEvent {
    if (pending.type === 'cleared') return { type: 'AllBlocksCleared' };
    if (pending.type === 'removed') return { type: 'BlockRemoved', blockHashes: pending.hashes };
    const { first, hashes } = pending.run;
    const { request, index } = first;
    const begin = index * this.#blockSize;
    return {
      type: 'BlockStored',
      blockHashes: hashes,
      parentBlockHash: index === 0 ? null : request.blockHashes[index - 1]!,
      tokenIds: request.tokenIds.slice(begin, begin + hashes.length * this.#blockSize),
      blockSize: this.#blockSize,
      extraKeys: hashes.map((_, i) => (index + i === 0 && request.cacheSalt ? [request.cacheSalt] : null)),
    };
  }
}
