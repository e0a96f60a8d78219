// A latch that the engine's loop sleeps on: set by events and by a deadline, cleared by the loop.

/** Longest delay that setTimeout takes, in ms. */
const maxDelayMs = 2 ** 31 - 1;

export class WakeUp {
  readonly #clock: () => number;
  #set = false;
  #resolve: (() => void) | null = null;

  constructor(clock: () => number) {
    this.#clock = clock;
  }

  wake(): void {
    this.#set = true;
    this.#resolve?.();
  }

  /** True if it was set since the last call; clears it. */
  take(): boolean {
    const wasSet = this.#set;
    this.#set = false;
    return wasSet;
  }

  /** Resolves at the next `wake()`, at once if it is set, or at the deadline (on the given clock), which sets it. */
  async sleep(deadlineMs: number | null): Promise<void> {
    if (this.#set) return;
    let timer: NodeJS.Timeout | undefined;
    if (deadlineMs !== null) {
      // Timers may fire a fraction of a millisecond early; a deadline must have passed when the loop looks.
      const delayMs = Math.ceil(deadlineMs - this.#clock()) + 1;
      timer = setTimeout(() => this.wake(), Math.min(Math.max(delayMs, 0), maxDelayMs));
    }
    await new Promise<void>((resolve) => {
      this.#resolve = resolve;
    });
    this.#resolve = null;
    clearTimeout(timer);
  }
}
