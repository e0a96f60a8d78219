// One connection through a relay: passes bytes on in both directions, as far as the relay's faults let them.
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** What becomes of a chunk: passed on; passed on as the connection's last; passed on behind the next one. */
export interface Passage {
  readonly kind: 'pass' | 'cut' | 'hold';
  readonly bytes: Buffer;
}

export interface LinkFaults {
  readonly delayMs: number;
  strike(chunk: Buffer): Passage;
}

export interface LinkOptions {
  /** Who connected; passes to the link. */
  readonly reader: Socket;
  readonly target: { readonly host: string; readonly port: number };
  readonly faults: LinkFaults;
  /** Sees what the owner said before the reader does. */
  readonly onOwnerBytes?: (chunk: Buffer) => Promise<void>;
  readonly onEnd: () => void;
}

/** A chunk that is to come behind the next one waits for it no longer than this. */
const holdMs = 100;

export class RelayedLink {
  readonly #reader: Socket;
  readonly #owner: Socket;
  readonly #faults: LinkFaults;
  #isMute = false;

  constructor({ reader, target, faults, onOwnerBytes, onEnd }: LinkOptions) {
    this.#reader = reader;
    this.#owner = connect({ ...target, noDelay: true });
    this.#faults = faults;
    reader.setNoDelay(true);
    for (const socket of [this.#reader, this.#owner]) socket.on('error', () => {});
    const ways = [this.#passOn(reader, this.#owner), this.#passOn(this.#owner, reader, onOwnerBytes)];
    void Promise.all(ways).then(onEnd);
  }

  /** From now on whatever is sent is lost, and nobody is told. */
  mute(): void {
    this.#isMute = true;
  }

  destroy(): void {
    this.#reader.destroy();
    this.#owner.destroy();
  }

  async #passOn(from: Socket, to: Socket, onBytes?: (chunk: Buffer) => Promise<void>): Promise<void> {
    try {
      let held: Buffer | null = null;
      const release = () => {
        if (held && !to.destroyed) to.write(held);
        held = null;
      };
      for await (const chunk of from as AsyncIterable<Buffer>) {
        if (this.#isMute) continue;
        await onBytes?.(chunk);
        if (this.#faults.delayMs > 0) await sleep(this.#faults.delayMs);
        const { kind, bytes } = this.#faults.strike(chunk);
        if (kind === 'hold') {
          release();
          held = bytes;
          setTimeout(release, holdMs);
          continue;
        }
        if (!to.destroyed) to.write(bytes);
        release();
        if (kind === 'cut') break;
      }
    } catch {
      // One end has gone; the other is told by its own end.
    }
    from.destroy();
    // With what was written before: a refusal is the last thing that an owner says.
    to.destroySoon();
  }
}
