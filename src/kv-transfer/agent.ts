// TransferAgent: how one node reads another node's blocks and tells it when it is done with them.
import type { HoldTable } from '../native/hold-table.js';
import type { KvPool } from '../native/kv-pool.js';
import type { FinishedSend, PullSpec, RemoteBlocks } from '../outputs.js';

/**
 * How bytes came: from memory that is mapped here (`shm`), from device to device (`cuda_ipc`), between a device and mapped
 * host memory through pinned memory (`staged`), or over connections.
 */
export type TransferPath = (typeof transferPaths)[number];

export const transferPaths = ['shm', 'cuda_ipc', 'staged', 'tcp'] as const;

/** A read that ran to its end; `valid[i]` is 1 where block i arrived intact, 0 where its owner no longer holds it. */
export interface ReadResult {
  readonly valid: Uint8Array;
  readonly numBytes: number;
}

/**
 * Listens on the node's side channel (loopback unless told otherwise) for handshakes, notifications and, over tcp,
 * reads; connects to peers on first use and keeps the connection.
 */
export interface TransferAgent {
  /** Where peers reach this node: goes into `kv_transfer_params` as remote_host and remote_port. */
  readonly host: string;
  readonly port: number;
  /** How a given peer's blocks are read: `shm` where its pool can be mapped, else `tcp`. Null before the first contact. */
  transportOf(engineId: string): 'shm' | 'tcp' | null;
  /**
   * Rejects with PEER_FAILED when the peer cannot be reached, is another engine than expected, or is incompatible, and
   * when `signal` aborts. Once the promise is settled, nothing writes into `into` any more.
   */
  read(pull: PullSpec, into: KvPool, signal?: AbortSignal): Promise<ReadResult>;
  /**
   * Tells the owner that this node is done with what it held under `remote.requestId`. Resolves to whether it still held
   * it then; null = it could not be told, also not when asked twice. Never rejects.
   */
  sendNotif(remote: RemoteBlocks, numBlocks: number): Promise<boolean | null>;
  /** Called for every notification that arrives; says whether the hold that it ends still stood. */
  onNotif(listener: (notif: FinishedSend) => boolean): void;
  /** Over tcp a peer reads only what is in here: blocks held under the request id that it brings. */
  readonly holds: HoldTable;
  /** Bytes served to peers, as far as the owner saw them (tcp) or was told (shm). */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly bytesReceivedBy: Readonly<Record<TransferPath, number>>;
  /** Blocks that came over tcp otherwise than they were sent; each was computed instead. */
  readonly numDamagedBlocks: number;
  close(): Promise<void>;
}
