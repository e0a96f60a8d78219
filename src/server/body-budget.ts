// How many bytes of request bodies a process keeps at a time, whoever sends them.
import { VllmPdError } from '../errors.js';

export class BodyBudget {
  readonly #maxBytes: number;
  #numBytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Throws OVERLOADED when there is no room; what was taken is to be given back. */
  take(numBytes: number): void {
    if (this.#numBytes + numBytes > this.#maxBytes) {
      throw new VllmPdError(
        'OVERLOADED',
        'This server is receiving as many bytes of requests as it can keep.',
      );
    }
    this.#numBytes += numBytes;
  }

  giveBack(numBytes: number): void {
    this.#numBytes -= numBytes;
  }
}
