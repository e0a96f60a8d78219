// Both ends of the data channel: checks arguments and hands them to the native module.
import { VllmPdError } from '../errors.js';
import { type Addon, cross, crossAsync, type DataLanesHandle, type DataServerHandle } from './addon.js';
import { checkByteLength, toBlockIds, toHashBytes, wholeNumber } from './arguments.js';
import { type HoldTable, NativeHoldTable } from './hold-table.js';
import { type KvPool, NativeKvPool } from './kv-pool.js';

/** The owner's end of the data channel (native/data_channel.h): answers reads of held blocks on threads of its own. */
export interface DataServer {
  readonly port: number;
  /** Bytes of valid blocks, since it was made. */
  readonly bytesSent: number;
  /** Connections that begin with the secret (64 hex digits) belong to this session; `key` seals its requests. */
  openSession(key: Uint8Array): { readonly id: number; readonly secret: string };
  closeSession(id: number): void;
  /** Ends all connections. Idempotent. */
  close(): void;
}

/** The reader's end: connections to one owner, a native thread for each. */
export interface DataLanes {
  /** Asks for a read: sends a sealed frame on the first connection. Throws PEER_FAILED when that has ended. */
  post(frame: Uint8Array): void;
  /**
   * Receives the next reply, which must be number `seq`, spread over the first `numLanes` connections, into the blocks;
   * resolves to one byte a block: 1 = arrived intact, 0 = stale, 2 = damaged on its way by its checksum (local bytes
   * undefined). Rejects with PEER_FAILED; no connection is of use then. When it is settled, nothing writes into the blocks
   * any more.
   */
  receive(
    numLanes: number,
    seq: number,
    into: KvPool,
    blockIds: readonly number[],
    hashes: readonly string[],
  ): Promise<Uint8Array>;
  /** Ends receives under way. Idempotent. */
  close(): void;
}

const secretBytes = 32;
const keyBytes = 32;
const maxLanes = 16;
const maxPort = 65_535;

export class NativeDataServer implements DataServer {
  readonly port: number;
  readonly #addon: Addon;
  readonly #handle: DataServerHandle;
  /** Null while it is open. */
  #bytesSentAtEnd: number | null = null;

  constructor(addon: Addon, pool: KvPool, holds: HoldTable, host: string) {
    const owned = NativeKvPool.handleOf(pool);
    const held = NativeHoldTable.handleOf(holds);
    if (typeof host !== 'string' || host === '') {
      throw new VllmPdError('INVALID_ARGUMENT', `Expected a host to listen on but received '${host}'.`);
    }
    this.#addon = addon;
    this.#handle = cross(() => addon.createDataServer(owned, held, host));
    this.port = cross(() => addon.dataServerPort(this.#handle));
  }

  get bytesSent(): number {
    return this.#bytesSentAtEnd ?? cross(() => this.#addon.dataBytesSent(this.#handle));
  }

  openSession(key: Uint8Array): { readonly id: number; readonly secret: string } {
    checkByteLength('key', key, keyBytes);
    const secret = Buffer.alloc(secretBytes);
    const id = cross(() => this.#addon.openDataSession(this.#handle, key, secret));
    return { id, secret: secret.toString('hex') };
  }

  closeSession(id: number): void {
    if (this.#bytesSentAtEnd === null) cross(() => this.#addon.closeDataSession(this.#handle, id));
  }

  close(): void {
    if (this.#bytesSentAtEnd !== null) return;
    this.#bytesSentAtEnd = this.bytesSent;
    this.#addon.closeDataServer(this.#handle);
  }
}

export class NativeDataLanes implements DataLanes {
  readonly #addon: Addon;
  readonly #handle: DataLanesHandle;
  readonly #numLanes: number;

  private constructor(addon: Addon, handle: DataLanesHandle, numLanes: number) {
    this.#addon = addon;
    this.#handle = handle;
    this.#numLanes = numLanes;
  }

  static async open(
    addon: Addon,
    { host, port }: { readonly host: string; readonly port: number },
    secret: string,
    numLanes: number,
  ): Promise<NativeDataLanes> {
    wholeNumber('port', port, 1, maxPort);
    wholeNumber('numLanes', numLanes, 1, maxLanes);
    const bytes = toHashBytes([secret]);
    const handle = await crossAsync(() => addon.openDataLanes(host, port, bytes, numLanes));
    return new NativeDataLanes(addon, handle, numLanes);
  }

  post(frame: Uint8Array): void {
    cross(() => this.#addon.postRead(this.#handle, frame));
  }

  async receive(
    numLanes: number,
    seq: number,
    into: KvPool,
    blockIds: readonly number[],
    hashes: readonly string[],
  ): Promise<Uint8Array> {
    const pool = NativeKvPool.handleOf(into);
    const ids = toBlockIds('blockIds', blockIds, into.layout.numBlocks);
    if (ids.length === 0) throw new VllmPdError('INVALID_ARGUMENT', 'Expected one block at least.');
    wholeNumber('numLanes', numLanes, 1, this.#numLanes);
    const bytes = toHashBytes(hashes, ids.length);
    return crossAsync(() => this.#addon.receiveBlocks(this.#handle, numLanes, seq, pool, ids, bytes));
  }

  close(): void {
    this.#addon.closeDataLanes(this.#handle);
  }
}
