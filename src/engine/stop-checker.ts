// Finds stop strings in text that arrives in pieces, and holds back what may turn out to be the beginning of one.

export interface StopCheck {
  /** Text that is safe to give out now. */
  readonly text: string;
  /** The stop string that was found; nothing may be pushed after it. */
  readonly stop: string | null;
}

export class StopChecker {
  readonly #stops: readonly string[];
  readonly #includeStop: boolean;
  #held = '';

  /** `stops`: non-empty strings. */
  constructor(stops: readonly string[], includeStop: boolean) {
    this.#stops = stops;
    this.#includeStop = includeStop;
  }

  push(piece: string): StopCheck {
    if (this.#stops.length === 0) return { text: piece, stop: null };
    const text = this.#held + piece;
    const found = this.#find(text);
    if (found) {
      this.#held = '';
      const end = found.index + (this.#includeStop ? found.stop.length : 0);
      return { text: text.slice(0, end), stop: found.stop };
    }
    const numHeld = this.#numHeldBack(text);
    this.#held = text.slice(text.length - numHeld);
    return { text: text.slice(0, text.length - numHeld), stop: null };
  }

  /** A piece in which stop strings do not count; what was held back goes out with it. */
  pass(piece: string): string {
    return this.flush() + piece;
  }

  /** What was held back, when no more text will come. */
  flush(): string {
    const held = this.#held;
    this.#held = '';
    return held;
  }

  #find(text: string): { readonly index: number; readonly stop: string } | null {
    let first: { index: number; stop: string } | null = null;
    for (const stop of this.#stops) {
      const index = text.indexOf(stop);
      if (index >= 0 && (first === null || index < first.index)) first = { index, stop };
    }
    return first;
  }

  /** Length of the longest end of `text` that a stop string begins with. */
  #numHeldBack(text: string): number {
    const longest = Math.max(...this.#stops.map((stop) => stop.length - 1));
    for (let length = Math.min(longest, text.length); length > 0; length--) {
      const end = text.slice(text.length - length);
      if (this.#stops.some((stop) => stop.startsWith(end))) return length;
    }
    return 0;
  }
}
