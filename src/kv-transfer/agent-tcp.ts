// Reading a peer's blocks over tcp: asked for and received natively, on connections that the side channel opened.
import { VllmPdError } from '../errors.js';
import type { DataLanes } from '../native/data-channel.js';
import type { KvPool } from '../native/kv-pool.js';
import { loadNative } from '../native.js';
import type { PullSpec } from '../outputs.js';
import type { ReadResult } from './agent.js';
import { countValid, decodeOpened, encodeOpen, maxBlocksPerChunk } from './messages.js';
import type { PeerConnection } from './peer-connection.js';

/** Data connections to each peer; each has a thread at both ends. */
export const numLanes = 2;
/** Fewer bytes come sooner over one connection than another thread could take part. */
const minBytesALane = 128 * 2 ** 10;
/** Parts of a long read that are under way at once, so that the owner sends on while the next one is asked for. */
const numPartsAhead = 2;
/** Parts of all reads of one peer that are. An owner cuts off who asks for a thousand and takes none. */
const maxPartsUnderWay = 64;

export interface TcpPeerOptions {
  readonly connection: PeerConnection;
  readonly host: string;
  /** Hears of every part of a read that arrived. */
  readonly onBytes: (numBytes: number) => void;
  /** Hears of blocks that were damaged on their way; they count as not there. */
  readonly onDamaged: (numBlocks: number) => void;
}

/** One owner's blocks. Ends with the side channel's connection, and ends that when its own fail. */
export class TcpPeer {
  readonly #options: TcpPeerOptions;
  #lanes: Promise<DataLanes> | null = null;
  #numPartsUnderWay = 0;
  /** Parts that wait for others to end, first come first. */
  readonly #waitingParts: (() => void)[] = [];

  constructor(options: TcpPeerOptions) {
    this.#options = options;
    void options.connection.closed.then(() => this.#close());
  }

  /** When this settles, nothing writes into `into` any more. */
  async read(pull: PullSpec, into: KvPool): Promise<ReadResult> {
    this.#lanes ??= this.#open();
    try {
      return await this.#readParts(await this.#lanes, pull, into);
    } catch (error) {
      // What else is on its way on the data connections would be taken for the answer to the next read.
      this.#options.connection.destroy();
      throw error;
    }
  }

  async #readParts(lanes: DataLanes, pull: PullSpec, into: KvPool): Promise<ReadResult> {
    const numBlocks = pull.remoteBlockIds.length;
    const partBlocks = maxBlocksPerChunk(into.blockBytes);
    const valid = new Uint8Array(numBlocks);
    let next = 0;
    const readOn = async () => {
      while (next < numBlocks) {
        const first = next;
        next = Math.min(numBlocks, first + partBlocks);
        const part = sliceOf(pull, first, next);
        valid.set(await this.#inTurn(() => this.#readPart(lanes, part, into)), first);
      }
    };
    // All of them, also after one has failed: a part that is still under way would write later.
    const readers = Array.from({ length: numPartsAhead }, readOn);
    const outcomes = await Promise.allSettled(readers.map((reader) => this.#endingAll(reader)));
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    return { valid, numBytes: countValid(valid) * into.blockBytes };
  }

  async #endingAll(reader: Promise<void>): Promise<void> {
    try {
      await reader;
    } catch (error) {
      this.#options.connection.destroy();
      throw error;
    }
  }

  async #inTurn<T>(read: () => Promise<T>): Promise<T> {
    // Whoever ends hands its place on.
    if (this.#numPartsUnderWay < maxPartsUnderWay) this.#numPartsUnderWay += 1;
    else await new Promise<void>((resolve) => this.#waitingParts.push(resolve));
    try {
      return await read();
    } finally {
      const next = this.#waitingParts.shift();
      if (next) next();
      else this.#numPartsUnderWay -= 1;
    }
  }

  async #readPart(lanes: DataLanes, part: PullSpec, into: KvPool): Promise<Uint8Array> {
    const { remote, remoteBlockIds, localBlockIds, blockHashes: hashes } = part;
    const numLanesWorthwhile = Math.floor((remoteBlockIds.length * into.blockBytes) / minBytesALane);
    const numPartLanes = Math.max(1, Math.min(numLanes, numLanesWorthwhile));
    const arrivals = await lanes.read(
      { holdId: remote.requestId, numLanes: numPartLanes, remoteBlockIds, localBlockIds, hashes },
      into,
    );
    const valid = arrivals.map((arrival) => (arrival === 1 ? 1 : 0));
    const numDamaged = arrivals.filter((arrival) => arrival === 2).length;
    if (numDamaged > 0) this.#options.onDamaged(numDamaged);
    this.#options.onBytes(countValid(valid) * into.blockBytes);
    return valid;
  }

  async #open(): Promise<DataLanes> {
    const { connection, host } = this.#options;
    const { port, secret } = decodeOpened(await connection.request('open', encodeOpen, 'opened'));
    const lanes = await loadNative().openDataLanes({ host, port }, secret, connection.readKey, numLanes);
    if (!connection.isClosed) return lanes;
    lanes.close();
    throw new VllmPdError('PEER_FAILED', 'The connection was closed.');
  }

  async #close(): Promise<void> {
    const lanes = await this.#lanes?.catch(() => null);
    lanes?.close();
  }
}

function sliceOf(pull: PullSpec, first: number, end: number): PullSpec {
  return {
    ...pull,
    remoteBlockIds: pull.remoteBlockIds.slice(first, end),
    localBlockIds: pull.localBlockIds.slice(first, end),
    blockHashes: pull.blockHashes.slice(first, end),
  };
}
