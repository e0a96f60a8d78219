// What a node's prefix cache still holds of each conversation, by lengths alone: least recently used goes first, its end first.

/** Blocks of whole conversations; nothing is shared between them. */
export class NodeCache {
  readonly #capacity: number;
  /** Conversation → full blocks from its beginning, least recently used first. */
  readonly #blocks = new Map<number, number>();
  #numBlocks = 0;

  /** `capacity` in blocks. */
  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Full blocks of the conversation that are cached. */
  get(conversation: number): number {
    return this.#blocks.get(conversation) ?? 0;
  }

  /** A request of `numNeeded` blocks runs and leaves `numFull` of them cached. */
  run(conversation: number, numNeeded: number, numFull: number): void {
    this.#set(conversation, numNeeded);
    this.#evictBeyondCapacity();
    // A block that is not full is free again, and the first to be taken.
    this.#set(conversation, Math.min(numFull, this.get(conversation)));
  }

  clear(): void {
    this.#blocks.clear();
    this.#numBlocks = 0;
  }

  #set(conversation: number, numBlocks: number): void {
    this.#numBlocks += numBlocks - this.get(conversation);
    this.#blocks.delete(conversation);
    if (numBlocks > 0) this.#blocks.set(conversation, numBlocks);
  }

  #evictBeyondCapacity(): void {
    for (const [conversation, numBlocks] of this.#blocks) {
      const excess = this.#numBlocks - this.#capacity;
      if (excess <= 0) return;
      const left = Math.max(0, numBlocks - excess);
      this.#numBlocks -= numBlocks - left;
      // A new value leaves the conversation at its place in the order.
      if (left > 0) this.#blocks.set(conversation, left);
      else this.#blocks.delete(conversation);
    }
  }
}
