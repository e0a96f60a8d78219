// What crosses into the native module, and how its errors come back.
import { type ErrorCode, messageOf, VllmPdError } from '../errors.js';
import type { CudaFacts } from './facts.js';
import type {
  CudaModelOptions,
  NativeModelConfig,
  NativeWeights,
  TensorLocation,
  WeightSource,
} from './model-config.js';

/** What build/vllm_pd.node exports. Handles are opaque; a layout is six numbers in the order of KvPoolLayout. */
export interface Addon {
  isa(): string;
  numTransferThreads(): number;
  /** One parent a chain, of as many blocks each; `hex` takes 64 characters a block. */
  hashBlocks(
    parents: Uint8Array,
    tokenIds: Uint32Array,
    blockSize: number,
    portable: boolean,
    hex: Uint8Array,
  ): void;
  defaultDtype(): NativeWeights['dtype'];
  cudaFacts(): CudaFacts;
  buildFacts(): { readonly compiler: string; readonly nvcc: string };
  cudaMemory(): { readonly free: number; readonly own: number; readonly total: number };
  createPool(layout: readonly number[], onDevice: boolean): PoolHandle;
  poolFd(pool: PoolHandle): number;
  publish(pool: PoolHandle, blockId: number, hash: Uint8Array): void;
  retract(pool: PoolHandle, blockId: number): void;
  /** Returns the generation and writes the hash's bytes to `hash`. */
  row(pool: PoolHandle, blockId: number, hash: Uint8Array): number;
  block(pool: PoolHandle, blockId: number): Uint8Array;
  copyOut(
    pool: PoolHandle,
    blockIds: Int32Array,
    hashes: Uint8Array,
    data: Uint8Array,
    valid: Uint8Array,
  ): void;
  copyIn(pool: PoolHandle, blockIds: Int32Array, data: Uint8Array): void;
  closePool(pool: PoolHandle): void;
  openPeerPool(pid: number, fd: number, layout: readonly number[]): PeerHandle;
  peerPoolOnDevice(peer: PeerHandle): boolean;
  readPeerPool(
    peer: PeerHandle,
    into: PoolHandle,
    remoteBlockIds: Int32Array,
    localBlockIds: Int32Array,
    hashes: Uint8Array,
  ): Uint8Array | Promise<Uint8Array>;
  closePeerPool(peer: PeerHandle): void;
  createHolds(): HoldsHandle;
  grantHold(holds: HoldsHandle, id: string, blockIds: Int32Array, milliseconds: number): void;
  endHold(holds: HoldsHandle, id: string): void;
  createDataServer(pool: PoolHandle, holds: HoldsHandle, host: string): DataServerHandle;
  dataServerPort(server: DataServerHandle): number;
  dataBytesSent(server: DataServerHandle): number;
  /** Returns the session's id and writes its secret (32 bytes). */
  openDataSession(server: DataServerHandle, key: Uint8Array, secret: Uint8Array): number;
  closeDataSession(server: DataServerHandle, session: number): void;
  closeDataServer(server: DataServerHandle): void;
  openDataLanes(
    host: string,
    port: number,
    secret: Uint8Array,
    key: Uint8Array,
    numLanes: number,
  ): Promise<DataLanesHandle>;
  readRemoteBlocks(
    lanes: DataLanesHandle,
    numLanes: number,
    holdId: string,
    remoteBlockIds: Int32Array,
    into: PoolHandle,
    localBlockIds: Int32Array,
    hashes: Uint8Array,
  ): Promise<Uint8Array>;
  crc32c(bytes: Uint8Array, way: number): number;
  /** Keys of at most 64 bytes; writes the digest's 32 to `out`. */
  hmacSha256(key: Uint8Array, message: Uint8Array, out: Uint8Array): void;
  closeDataLanes(lanes: DataLanesHandle): void;
  loadModel(
    config: NativeModelConfig,
    tensors: readonly TensorLocation[],
    weights: NativeWeights,
    numThreads: number,
    cuda?: Omit<CudaModelOptions, 'kvDtype' | 'suppressTokenIds'> & {
      readonly kvDtype: number;
      readonly suppressTokenIds: Int32Array;
    },
  ): Promise<ModelHandle>;
  forward(
    model: ModelHandle,
    pool: PoolHandle,
    tokenIds: Int32Array,
    positions: Int32Array,
    cuSeqlensQ: Int32Array,
    blockTables: Int32Array,
    cuBlocks: Int32Array,
    logitsIndices: Int32Array,
  ): Promise<Float32Array>;
  /** `reals` and `ints` as src/native/draws.ts writes them. */
  forwardAndSample(
    model: ModelHandle,
    pool: PoolHandle,
    tokenIds: Int32Array,
    positions: Int32Array,
    cuSeqlensQ: Int32Array,
    blockTables: Int32Array,
    cuBlocks: Int32Array,
    logitsIndices: Int32Array,
    reals: Float64Array,
    ints: Int32Array,
    logitsRows: Int32Array,
  ): Promise<{ readonly tokenIds: Int32Array; readonly logits: Float32Array }>;
  /** Rows packed by this process since it began. */
  numPackedRows(): number;
  weightSource(model: ModelHandle): WeightSource;
  closeModel(model: ModelHandle): void;
  /** `sizes` in the order of native/probe/probe.h. */
  createProbe(kind: string, sizes: readonly number[]): ProbeHandle;
  runProbe(probe: ProbeHandle): void;
  closeProbe(probe: ProbeHandle): void;
}

export type PoolHandle = { readonly kind: 'pool' };
export type DataServerHandle = { readonly kind: 'data server' };
export type HoldsHandle = { readonly kind: 'holds' };
export type DataLanesHandle = { readonly kind: 'data lanes' };
export type PeerHandle = { readonly kind: 'peer' };
export type ModelHandle = { readonly kind: 'model' };
export type ProbeHandle = { readonly kind: 'probe' };

/** The codes that native/ throws with. */
const nativeCodes: readonly ErrorCode[] = [
  'INVALID_ARGUMENT',
  'BAD_FILE',
  'PEER_FAILED',
  'NOT_SUPPORTED',
  'DEVICE_LOST',
];

function toVllmPdError(error: unknown): VllmPdError {
  const code = nativeCodes.find((known) => known === (error as { code?: unknown }).code) ?? 'INTERNAL';
  return new VllmPdError(code, messageOf(error), { cause: error });
}

/** Calls into the addon; what it throws comes out as a VllmPdError. */
export function cross<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw toVllmPdError(error);
  }
}

export async function crossAsync<T>(call: () => T | Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw toVllmPdError(error);
  }
}
