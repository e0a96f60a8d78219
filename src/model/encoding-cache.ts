// Texts that were tokenised lately and their ids, bounded in memory: a conversation's next turn has most of them.

const defaultMaxBytes = 16 * 1024 * 1024;
/** Of the map's entry and the array, roughly. */
const entryBytes = 128;

export class EncodingCache {
  readonly #maxBytes: number;
  /** Least recently used first. */
  readonly #entries = new Map<string, readonly number[]>();
  #numBytes = 0;

  constructor(maxBytes = defaultMaxBytes) {
    this.#maxBytes = maxBytes;
  }

  get numBytes(): number {
    return this.#numBytes;
  }

  has(text: string): boolean {
    return this.#entries.has(text);
  }

  get(text: string): readonly number[] | undefined {
    const ids = this.#entries.get(text);
    if (!ids) return undefined;
    this.#entries.delete(text);
    this.#entries.set(text, ids);
    return ids;
  }

  /** Drops what was not used for longest; a text that is too large by itself is not kept. */
  set(text: string, ids: readonly number[]): void {
    this.#delete(text);
    this.#entries.set(ownCopy(text), ids);
    this.#numBytes += bytesOf(text, ids);
    for (const oldest of this.#entries.keys()) {
      if (this.#numBytes <= this.#maxBytes) break;
      this.#delete(oldest);
    }
  }

  #delete(text: string): void {
    const ids = this.#entries.get(text);
    if (!ids) return;
    this.#entries.delete(text);
    this.#numBytes -= bytesOf(text, ids);
  }
}

function bytesOf(text: string, ids: readonly number[]): number {
  return entryBytes + 2 * text.length + 8 * ids.length;
}

/** A part of a string keeps the whole string alive. */
function ownCopy(text: string): string {
  return Buffer.from(text, 'utf16le').toString('utf16le');
}
