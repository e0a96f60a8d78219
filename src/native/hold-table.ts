// Which blocks peers may read over tcp right now, where native threads that serve reads can look.
import { VllmPdError } from '../errors.js';
import { type Addon, cross, type HoldsHandle } from './addon.js';
import { toBlockIds } from './arguments.js';

export interface HoldTable {
  /** Until `end`, or for so long at most. Takes the place of what was granted under the id before. */
  grant(id: string, blockIds: readonly number[], forMs: number): void;
  end(id: string): void;
}

const maxInt32 = 2 ** 31 - 1;

export class NativeHoldTable implements HoldTable {
  readonly #addon: Addon;
  readonly #handle: HoldsHandle;

  constructor(addon: Addon) {
    this.#addon = addon;
    this.#handle = cross(() => addon.createHolds());
  }

  /** Other classes' tables are no memory that the native module knows. */
  static handleOf(holds: HoldTable): HoldsHandle {
    if (holds instanceof NativeHoldTable) return holds.#handle;
    throw new VllmPdError(
      'INVALID_ARGUMENT',
      'Expected a HoldTable made by createHoldTable but received another object.',
    );
  }

  grant(id: string, blockIds: readonly number[], forMs: number): void {
    const ids = toBlockIds('blockIds', blockIds, maxInt32);
    // A hold never outlives its lease, not by a part of a millisecond.
    const milliseconds = Math.floor(Math.min(Math.max(0, forMs), maxInt32));
    cross(() => this.#addon.grantHold(this.#handle, id, ids, milliseconds));
  }

  end(id: string): void {
    cross(() => this.#addon.endHold(this.#handle, id));
  }
}
