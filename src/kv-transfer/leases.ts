// Leases: which finished requests and cache queries hold blocks for a peer, and until when. Each hold ends exactly once.

/** How a hold ended; `revoked`: the node needed the blocks itself. */
export type HoldEnd = 'notified' | 'released' | 'expired' | 'revoked';

export class Leases {
  /** Id → expiry on the caller's clock. */
  readonly #holds = new Map<string, number>();
  readonly #numEnded: Record<HoldEnd, number> = { notified: 0, released: 0, expired: 0, revoked: 0 };
  readonly #onEnd: (id: string) => void;
  #ended: string[] = [];
  /** Oldest first. */
  readonly #revocable = new Set<string>();
  /** Earliest expiry; undefined = not known since the hold that had it ended. */
  #nextDeadlineMs: number | null | undefined = null;

  /** `onEnd` hears of every hold's end, at once. */
  constructor(onEnd: (id: string) => void = () => {}) {
    this.#onEnd = onEnd;
  }

  /** False (and no effect) when a hold of that id stands already. */
  grant(id: string, expiresAtMs: number, options: { readonly isRevocable?: boolean } = {}): boolean {
    if (this.#holds.has(id)) return false;
    this.#holds.set(id, expiresAtMs);
    if (options.isRevocable) this.#revocable.add(id);
    if (this.#nextDeadlineMs !== undefined) {
      this.#nextDeadlineMs = Math.min(this.#nextDeadlineMs ?? Number.POSITIVE_INFINITY, expiresAtMs);
    }
    return true;
  }

  /** False when there is no such hold: it never was, or it has ended. */
  end(id: string, how: HoldEnd): boolean {
    const expiresAtMs = this.#holds.get(id);
    if (expiresAtMs === undefined) return false;
    this.#holds.delete(id);
    this.#onEnd(id);
    this.#revocable.delete(id);
    this.#ended.push(id);
    this.#numEnded[how] += 1;
    if (expiresAtMs === this.#nextDeadlineMs) this.#nextDeadlineMs = undefined;
    return true;
  }

  /** Ends the oldest of those that may be revoked; false when there is none. */
  revokeOldest(): boolean {
    const [oldest] = this.#revocable;
    return oldest !== undefined && this.end(oldest, 'revoked');
  }

  /** Ends what has run out by `nowMs`; a hold lasts up to, but not including, its deadline. */
  expire(nowMs: number): void {
    const next = this.nextDeadlineMs();
    if (next === null || next > nowMs) return;
    for (const [id, expiresAtMs] of this.#holds) {
      if (expiresAtMs <= nowMs) this.end(id, 'expired');
    }
  }

  nextDeadlineMs(): number | null {
    if (this.#nextDeadlineMs === undefined) {
      let next = Number.POSITIVE_INFINITY;
      for (const expiresAtMs of this.#holds.values()) next = Math.min(next, expiresAtMs);
      this.#nextDeadlineMs = this.#holds.size > 0 ? next : null;
    }
    return this.#nextDeadlineMs;
  }

  /** Ids that ended since the last call, in the order in which they did. */
  takeEnded(): readonly string[] {
    const ended = this.#ended;
    this.#ended = [];
    return ended;
  }

  isHeld(id: string, nowMs: number): boolean {
    return (this.#holds.get(id) ?? nowMs) > nowMs;
  }

  get size(): number {
    return this.#holds.size;
  }

  /** Holds that ended in this way since start. */
  numEnded(how: HoldEnd): number {
    return this.#numEnded[how];
  }
}
