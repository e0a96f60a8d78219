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
  /**
   * Asks for the blocks and receives them into `into`; resolves to one byte a block: 1 = arrived intact, 0 = stale, 2 =
   * damaged on its way by its checksum (local bytes undefined). Rejects with PEER_FAILED; no connection is of use then. When
   * it is settled, nothing writes into the blocks any more. Several may be under way.
   */
  read(blocks: RemoteRead, into: KvPool): Promise<Uint8Array>;
  /** Ends reads under way. Idempotent. */
  close(): void;
}

/** What one request asks for; ids and hashes go by blocks. */
export interface RemoteRead {
  /** The owner's id of what it holds for this reader: only blocks under it may be read. */
  readonly holdId: string;
  /** Over how many connections the blocks are spread, from the first on. */
  readonly numLanes: number;
  readonly remoteBlockIds: readonly number[];
  readonly localBlockIds: readonly number[];
  /** What the blocks are expected to hold. */
  readonly hashes: readonly string[];
}

const secretBytes = 32;
const keyBytes = 32;
const maxLanes = 16;
const maxPort = 65_535;
/** Of any peer. */
const maxPoolBlocks = 2 ** 31;

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
    key: Uint8Array,
    numLanes: number,
  ): Promise<NativeDataLanes> {
    wholeNumber('port', port, 1, maxPort);
    wholeNumber('numLanes', numLanes, 1, maxLanes);
    checkByteLength('key', key, keyBytes);
    const bytes = toHashBytes([secret]);
    const handle = await crossAsync(() => addon.openDataLanes(host, port, bytes, key, numLanes));
    return new NativeDataLanes(addon, handle, numLanes);
  }

  async read(blocks: RemoteRead, into: KvPool): Promise<Uint8Array> {
    const { holdId, numLanes, remoteBlockIds, localBlockIds, hashes } = blocks;
    const pool = NativeKvPool.handleOf(into);
    const localIds = toBlockIds('localBlockIds', localBlockIds, into.layout.numBlocks);
    if (localIds.length === 0) throw new VllmPdError('INVALID_ARGUMENT', 'Expected one block at least.');
    const remoteIds = toBlockIds('remoteBlockIds', remoteBlockIds, maxPoolBlocks, localIds.length);
    wholeNumber('numLanes', numLanes, 1, this.#numLanes);
    if (typeof holdId !== 'string') {
      throw new VllmPdError('INVALID_ARGUMENT', `Expected a hold's id but received ${typeof holdId}.`);
    }
    const bytes = toHashBytes(hashes, localIds.length);
    return crossAsync(() =>
      this.#addon.readRemoteBlocks(this.#handle, numLanes, holdId, remoteIds, pool, localIds, bytes),
    );
  }

  close(): void {
    this.#addon.closeDataLanes(this.#handle);
  }
}
