// How many turns may wait for their answer to begin, and when a client that found no room may come back.
import type { ServerResponse } from 'node:http';
import { VllmPdError } from '../../errors.js';

const maxRetryAfterSeconds = 60;
/** Weight of the newest turn in the mean. */
const smoothing = 0.2;

export class WaitingRoom {
  readonly #maxWaiting: number;
  readonly #clock: () => number;
  readonly #underWay = new Set<ServerResponse>();
  /** Of a turn from its coming to the end of its answer; null before the first one has ended. */
  #meanTurnMs: number | null = null;

  /** `clock` in ms. */
  constructor(maxWaiting: number, clock: () => number) {
    this.#maxWaiting = maxWaiting;
    this.#clock = clock;
  }

  /** Counts the turn until its answer begins. Throws QUEUE_FULL when as many wait as may. */
  enter(res: ServerResponse): void {
    if (this.#numWaiting() >= this.#maxWaiting) {
      const message = `Expected fewer than ${this.#maxWaiting} turns to be waiting at this proxy; try again later.`;
      throw new VllmPdError('QUEUE_FULL', message, { retryAfterSeconds: this.#retryAfterSeconds() });
    }
    const startedMs = this.#clock();
    this.#underWay.add(res);
    res.once('close', () => {
      this.#underWay.delete(res);
      const turnMs = this.#clock() - startedMs;
      const meanMs = this.#meanTurnMs ?? turnMs;
      this.#meanTurnMs = meanMs + smoothing * (turnMs - meanMs);
    });
  }

  #numWaiting(): number {
    let numWaiting = 0;
    for (const res of this.#underWay) if (!res.headersSent) numWaiting += 1;
    return numWaiting;
  }

  /** By Little's law, all that wait now are gone after about the mean time that a turn takes. */
  #retryAfterSeconds(): number {
    const meanSeconds = Math.ceil((this.#meanTurnMs ?? 0) / 1000);
    return Math.min(Math.max(1, meanSeconds), maxRetryAfterSeconds);
  }
}
