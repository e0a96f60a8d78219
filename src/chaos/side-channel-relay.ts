// Before one node's KV ports: a TCP relay that can drop, delay, break off, damage, reorder and swallow what goes through.
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { sealBytes } from '../kv-transfer/frame-seal.js';
import { FrameDecoder } from '../kv-transfer/frames.js';
import { decodeOpened, maxJsonBytes } from '../kv-transfer/messages.js';
import { someLoopbackAddress } from './loopback-address.js';
import { type LinkFaults, type Passage, RelayedLink } from './relayed-link.js';

export type DamageKind = 'truncate' | 'corrupt' | 'reorder';

/** What is still to be done to bytes on their way. */
interface Damage {
  readonly kind: DamageKind;
  numBytesBefore: number;
}

interface Address {
  readonly host: string;
  readonly port: number;
}

/**
 * Keeps its address while the node behind it comes and goes. Peers open data connections on the host where they found the
 * side channel, at a port that the node tells them: on an address of its own the relay can listen on that very port.
 */
export class SideChannelRelay implements LinkFaults {
  readonly host: string;
  readonly #server: Server;
  /** Listeners for data connections, by port. */
  readonly #data = new Map<number, Promise<Server>>();
  readonly #links = new Set<RelayedLink>();
  #target: Address | null = null;
  #isPartitioned = false;
  #isBlackhole = false;
  #delayMs = 0;
  #damage: Damage | null = null;

  private constructor(host: string) {
    this.host = host;
    this.#server = createServer((socket) => this.#accept(socket, this.#target, true));
  }

  static async open(): Promise<SideChannelRelay> {
    const relay = new SideChannelRelay(someLoopbackAddress());
    await listening(relay.#server, relay.host, 0);
    return relay;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get delayMs(): number {
    return this.#delayMs;
  }

  /** `host:port` of the node's side channel; null = there is none. */
  connectTo(address: string | null): void {
    const at = address?.lastIndexOf(':') ?? 0;
    this.#target =
      address === null ? null : { host: address.slice(0, at), port: Number(address.slice(at + 1)) };
    for (const server of this.#data.values()) void server.then((listener) => listener.close());
    this.#data.clear();
  }

  async partition(ms: number): Promise<void> {
    this.#isPartitioned = true;
    for (const link of this.#links) link.destroy();
    await sleep(ms);
    this.#isPartitioned = false;
  }

  /** Connections stand, and nothing goes through; those that there are by then never say anything again. */
  async blackhole(ms: number): Promise<void> {
    this.#isBlackhole = true;
    for (const link of this.#links) link.mute();
    await sleep(ms);
    this.#isBlackhole = false;
  }

  async delay(ms: number): Promise<void> {
    this.#delayMs = Math.min(50, ms);
    await sleep(ms);
    this.#delayMs = 0;
  }

  /** Strikes once, in whichever connection and direction gets there. */
  damage(kind: DamageKind, numBytesBefore: number): void {
    this.#damage = { kind, numBytesBefore };
  }

  strike(chunk: Buffer): Passage {
    const damage = this.#damage;
    if (!damage) return { kind: 'pass', bytes: chunk };
    const at = damage.numBytesBefore;
    damage.numBytesBefore -= chunk.length;
    if (at >= chunk.length) return { kind: 'pass', bytes: chunk };
    this.#damage = null;
    if (damage.kind === 'truncate') return { kind: 'cut', bytes: chunk.subarray(0, at) };
    if (damage.kind === 'reorder') return { kind: 'hold', bytes: chunk };
    const copy = Buffer.from(chunk);
    copy[at]! ^= 1 << (at % 8);
    return { kind: 'pass', bytes: copy };
  }

  /** What was armed and has not struck will not any more. */
  calm(): void {
    this.#damage = null;
  }

  async close(): Promise<void> {
    for (const link of this.#links) link.destroy();
    const servers = [this.#server, ...(await Promise.all(this.#data.values()))];
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  }

  #accept(reader: Socket, target: Address | null, isSideChannel: boolean): void {
    if (this.#isPartitioned || !target) return void reader.destroy();
    const link = new RelayedLink({
      reader,
      target,
      faults: this,
      onEnd: () => this.#links.delete(link),
      ...(isSideChannel && { onOwnerBytes: this.#watchFor(target.host) }),
    });
    if (this.#isBlackhole) link.mute();
    this.#links.add(link);
  }

  /** Listens wherever the owner says that data connections are to be opened. */
  #watchFor(ownerHost: string): (chunk: Buffer) => Promise<void> {
    const decoder = new FrameDecoder(maxJsonBytes + sealBytes);
    return async (chunk) => {
      for (const { type, body } of decoder.push(chunk)) {
        if (type !== 'opened') continue;
        const { port } = decodeOpened(body.subarray(0, -sealBytes));
        await this.#listenAt({ host: ownerHost, port });
      }
    };
  }

  /** Throws when somebody listens on that port of every address; the peer's connection ends then. */
  async #listenAt(target: Address): Promise<void> {
    const { port } = target;
    if (!this.#data.has(port)) {
      const server = createServer((socket) => this.#accept(socket, target, false));
      const opening = listening(server, this.host, port);
      this.#data.set(port, opening);
      opening.catch(() => this.#data.delete(port));
    }
    await this.#data.get(port);
  }
}

async function listening(server: Server, host: string, port: number): Promise<Server> {
  server.listen(port, host);
  await once(server, 'listening');
  return server;
}
