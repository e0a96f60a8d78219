// Before one node's side channel: a TCP relay that can drop, delay, break off and damage what the node says to its peers.
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** What is still to be done to the bytes on their way to peers. */
interface Damage {
  readonly kind: 'truncate' | 'corrupt';
  numBytesBefore: number;
}

/** Keeps its address while the node behind it comes and goes. */
export class SideChannelRelay {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #target: { readonly host: string; readonly port: number } | null = null;
  #isPartitioned = false;
  #delayMs = 0;
  #damage: Damage | null = null;

  private constructor() {
    this.#server = createServer((socket) => this.#accept(socket));
  }

  static async open(): Promise<SideChannelRelay> {
    const relay = new SideChannelRelay();
    await new Promise<void>((resolve) => relay.#server.listen(0, '127.0.0.1', resolve));
    return relay;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** `host:port` of the node's side channel; null = there is none. */
  connectTo(address: string | null): void {
    const at = address?.lastIndexOf(':') ?? 0;
    this.#target =
      address === null ? null : { host: address.slice(0, at), port: Number(address.slice(at + 1)) };
  }

  async partition(ms: number): Promise<void> {
    this.#isPartitioned = true;
    for (const socket of this.#sockets) socket.destroy();
    await sleep(ms);
    this.#isPartitioned = false;
  }

  async delay(ms: number): Promise<void> {
    this.#delayMs = Math.min(50, ms);
    await sleep(ms);
    this.#delayMs = 0;
  }

  /** Strikes once, in whichever connection gets there. */
  damage(kind: Damage['kind'], numBytesBefore: number): void {
    this.#damage = { kind, numBytesBefore };
  }

  /** What was armed and has not struck will not any more. */
  calm(): void {
    this.#damage = null;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #accept(reader: Socket): void {
    if (this.#isPartitioned || !this.#target) return void reader.destroy();
    const owner = connect({ ...this.#target, noDelay: true });
    reader.setNoDelay(true);
    for (const [socket, other] of [
      [reader, owner],
      [owner, reader],
    ] as const) {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      socket.once('close', () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
    }
    reader.pipe(owner);
    void this.#passOn(owner, reader);
  }

  /** Owner → reader, one chunk after the other. */
  async #passOn(owner: Socket, reader: Socket): Promise<void> {
    try {
      for await (const chunk of owner as AsyncIterable<Buffer>) {
        if (this.#delayMs > 0) await sleep(this.#delayMs);
        const kept = this.#damaged(chunk);
        reader.write(kept);
        if (kept.length < chunk.length) return void reader.destroySoon();
      }
    } catch {
      // The other side is told by the socket's end.
    }
  }

  #damaged(chunk: Buffer): Buffer {
    const damage = this.#damage;
    if (!damage) return chunk;
    if (damage.numBytesBefore >= chunk.length) {
      damage.numBytesBefore -= chunk.length;
      return chunk;
    }
    this.#damage = null;
    if (damage.kind === 'truncate') return chunk.subarray(0, damage.numBytesBefore);
    const copy = Buffer.from(chunk);
    copy[damage.numBytesBefore]! ^= 1 << (damage.numBytesBefore % 8);
    return copy;
  }
}
