// Reading a peer's blocks over tcp: asked for on the side channel, received natively on connections of their own.
import { VllmPdError } from '../errors.js';
import type { DataLanes } from '../native/data-channel.js';
import type { KvPool } from '../native/kv-pool.js';
import { loadNative } from '../native.js';
import type { PullSpec } from '../outputs.js';
import type { ReadResult } from './agent.js';
import { countValid, decodeOpened, encodeOpen, encodeRead, maxBlocksPerChunk } from './messages.js';
import type { PeerConnection } from './peer-connection.js';

/** Data connections to each peer; each has a thread at both ends. */
export const numLanes = 2;
/** Chunks asked for ahead on each, so that the owner sends on while the next one is asked for. */
const numChunksAhead = 2;

export interface TcpPeerOptions {
  readonly connection: PeerConnection;
  readonly host: string;
  /** Hears of every chunk that arrived. */
  readonly onBytes: (numBytes: number) => void;
  /** Hears of blocks that were damaged on their way; they count as not there. */
  readonly onDamaged: (numBlocks: number) => void;
}

/** One owner's blocks. Ends with the side channel's connection, and ends that when its own fail. */
export class TcpPeer {
  readonly #options: TcpPeerOptions;
  #lanes: Promise<DataLanes> | null = null;

  constructor(options: TcpPeerOptions) {
    this.#options = options;
    void options.connection.closed.then(() => this.#close());
  }

  /** When this settles, nothing writes into `into` any more. */
  async read(pull: PullSpec, into: KvPool): Promise<ReadResult> {
    this.#lanes ??= this.#open();
    try {
      return await this.#readChunks(await this.#lanes, pull, into);
    } catch (error) {
      // What else is on its way on the data connections would be taken for the answer to the next read.
      this.#options.connection.destroy();
      throw error;
    }
  }

  async #readChunks(lanes: DataLanes, pull: PullSpec, into: KvPool): Promise<ReadResult> {
    const numBlocks = pull.remoteBlockIds.length;
    const chunkBlocks = Math.min(maxBlocksPerChunk(into.blockBytes), Math.ceil(numBlocks / numLanes));
    const valid = new Uint8Array(numBlocks);
    let next = 0;
    const readOn = async (lane: number) => {
      while (next < numBlocks) {
        const first = next;
        next = Math.min(numBlocks, first + chunkBlocks);
        valid.set(await this.#readChunk(lanes, lane, sliceOf(pull, first, next), into), first);
      }
    };
    // All of them, also after one has failed: a chunk that is still under way would write later.
    const readers = Array.from({ length: numLanes * numChunksAhead }, (_, i) => readOn(i % numLanes));
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

  async #readChunk(lanes: DataLanes, lane: number, chunk: PullSpec, into: KvPool): Promise<Uint8Array> {
    const { remote, remoteBlockIds: blockIds, blockHashes: hashes } = chunk;
    // In the same breath: replies come in the order in which they were asked for.
    const seq = this.#options.connection.post('read', (number) =>
      encodeRead({ seq: number, lane, requestId: remote.requestId, blockIds, hashes }),
    );
    const arrivals = await lanes.receive(lane, seq, into, chunk.localBlockIds, hashes);
    const valid = arrivals.map((arrival) => (arrival === 1 ? 1 : 0));
    const numDamaged = arrivals.filter((arrival) => arrival === 2).length;
    if (numDamaged > 0) this.#options.onDamaged(numDamaged);
    this.#options.onBytes(countValid(valid) * into.blockBytes);
    return valid;
  }

  async #open(): Promise<DataLanes> {
    const { connection, host } = this.#options;
    const { port, secret } = decodeOpened(await connection.request('open', encodeOpen, 'opened'));
    const lanes = await loadNative().openDataLanes({ host, port }, secret, numLanes);
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
