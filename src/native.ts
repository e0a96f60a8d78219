// The native module's typed face, and the only file that loads it. Everything is validated here, before it crosses.
import { createRequire } from 'node:module';
import path from 'node:path';
import { messageOf, VllmPdError } from './errors.js';
import { type Addon, cross, crossAsync } from './native/addon.js';
import {
  checkCudaOptions,
  checkModelConfig,
  checkTensors,
  checkWeights,
  kvDtypeNumber,
  wholeNumber,
} from './native/arguments.js';
import { type BlockChain, NativeBlockHash } from './native/block-hash.js';
import { type DataLanes, type DataServer, NativeDataLanes, NativeDataServer } from './native/data-channel.js';
import type { BuildFacts, CudaFacts } from './native/facts.js';
import { type HoldTable, NativeHoldTable } from './native/hold-table.js';
import { type KvPlace, type KvPool, NativeKvPool, NativePeerPool, type PeerPool } from './native/kv-pool.js';
import type { KvPoolLayout } from './native/kv-pool-layout.js';
import { LoadedNativeModel, type NativeModel } from './native/model.js';
import type {
  CudaModelOptions,
  NativeModelConfig,
  NativeWeights,
  TensorLocation,
} from './native/model-config.js';
import { NativeProbe, type Probe, type ProbeSpec } from './native/probe.js';
import { packageRoot } from './version.js';

/** `best`: as fast as the chip can; the others, which chips without its instructions use, are there to be compared. */
export const checksumWays = ['best', 'instruction', 'tables'] as const;
const hmacBytes = 32;
const maxHmacKeyBytes = 64;
export type ChecksumWay = (typeof checksumWays)[number];

export interface Native {
  /** Default `host`. Throws INVALID_ARGUMENT where it does not fit, NOT_SUPPORTED without a device. */
  createPool(layout: KvPoolLayout, place?: KvPlace): KvPool;
  /** Maps the pool of process `pid` (same user, same host). Throws PEER_FAILED if it cannot. */
  openPeerPool(pid: number, fd: number, layout: KvPoolLayout): PeerPool;
  /** Listens on any free port of that host. Throws INVALID_ARGUMENT when it is not this machine's. */
  createDataServer(pool: KvPool, holds: HoldTable, host: string): DataServer;
  createHoldTable(): HoldTable;
  /** Rejects with PEER_FAILED when the owner cannot be reached or does not know the secret; `key` seals requests. */
  openDataLanes(
    address: { readonly host: string; readonly port: number },
    secret: string,
    key: Uint8Array,
    numLanes: number,
  ): Promise<DataLanes>;
  /** The checksum of blocks on data connections. */
  crc32c(bytes: Uint8Array, way?: ChecksumWay): number;
  /** HMAC-SHA256 under a key of at most 64 bytes. */
  hmacSha256(key: Uint8Array, message: Uint8Array): Buffer;
  /**
   * Maps and packs the weights on a native thread; float32 unless `weights` says otherwise. `onPacked` is told from time
   * to time how much of them is packed, 0 to 1; never where they are found packed.
   */
  loadModel(
    config: NativeModelConfig,
    tensors: readonly TensorLocation[],
    numThreads: number,
    weights?: NativeWeights,
    onPacked?: (fraction: number) => void,
  ): Promise<NativeModel>;
  /** Brings the weights to the GPU. Throws NOT_SUPPORTED without one, or for shapes that kernels do not take. */
  loadCudaModel(
    config: NativeModelConfig,
    tensors: readonly TensorLocation[],
    options: CudaModelOptions,
  ): Promise<NativeModel>;
  /** Bytes on the device: not in use by anybody, in use by this process, there at all. Throws NOT_SUPPORTED without one. */
  cudaMemory(): { readonly free: number; readonly own: number; readonly total: number };
  /**
   * Hashes of `numBlocks` full blocks of each chain, one chain after the other, as src/core/block-hash.ts defines them
   * for blocks without extra keys. Token ids must be uint32. `portable`: without the chip's SHA instructions.
   */
  hashBlocks(
    chains: readonly BlockChain[],
    numBlocks: number,
    blockSize: number,
    options?: { readonly portable: boolean },
  ): readonly string[];
  /** Throws INVALID_ARGUMENT for sizes below 1 (a context may be 0). */
  createProbe(spec: ProbeSpec): Probe;
  /** Threads that read peers' pools, all together; none of them computes. */
  readonly numTransferThreads: number;
  /** Which kernels were chosen on this machine, e.g. `avx512`. */
  readonly isa: string;
  /** What weights are best kept as on this machine: bfloat16 where AVX-512 or AMX multiply it. */
  readonly defaultDtype: NativeWeights['dtype'];
  readonly build: BuildFacts;
  /** Looks for a CUDA driver on the first call. */
  cudaFacts(): CudaFacts;
}

class LoadedNative implements Native {
  readonly isa: string;
  readonly defaultDtype: NativeWeights['dtype'];
  readonly numTransferThreads: number;
  readonly build: BuildFacts;
  readonly #addon: Addon;
  readonly hashBlocks: Native['hashBlocks'];

  constructor(addon: Addon) {
    this.#addon = addon;
    const blockHash = new NativeBlockHash(addon);
    this.hashBlocks = (...blocks) => blockHash.hashBlocks(...blocks);
    this.isa = cross(() => addon.isa());
    this.defaultDtype = cross(() => addon.defaultDtype());
    this.numTransferThreads = cross(() => addon.numTransferThreads());
    const { compiler, nvcc } = addon.buildFacts();
    this.build = { compiler, nvcc: nvcc || null };
  }

  cudaFacts(): CudaFacts {
    return cross(() => this.#addon.cudaFacts());
  }

  cudaMemory(): ReturnType<Native['cudaMemory']> {
    return cross(() => this.#addon.cudaMemory());
  }

  createPool(layout: KvPoolLayout, place: KvPlace = 'host'): KvPool {
    return new NativeKvPool(this.#addon, layout, place);
  }

  createDataServer(pool: KvPool, holds: HoldTable, host: string): DataServer {
    return new NativeDataServer(this.#addon, pool, holds, host);
  }

  createHoldTable(): HoldTable {
    return new NativeHoldTable(this.#addon);
  }

  openDataLanes(
    address: { readonly host: string; readonly port: number },
    secret: string,
    key: Uint8Array,
    numLanes: number,
  ): Promise<DataLanes> {
    return NativeDataLanes.open(this.#addon, address, secret, key, numLanes);
  }

  crc32c(bytes: Uint8Array, way: ChecksumWay = 'best'): number {
    return cross(() => this.#addon.crc32c(bytes, checksumWays.indexOf(way)));
  }

  hmacSha256(key: Uint8Array, message: Uint8Array): Buffer {
    const digest = Buffer.allocUnsafe(hmacBytes);
    if (key.length > maxHmacKeyBytes)
      throw new VllmPdError(
        'INVALID_ARGUMENT',
        `Expected a key of at most ${maxHmacKeyBytes} bytes but received ${key.length}.`,
      );
    cross(() => this.#addon.hmacSha256(key, message, digest));
    return digest;
  }

  openPeerPool(pid: number, fd: number, layout: KvPoolLayout): PeerPool {
    return new NativePeerPool(this.#addon, pid, fd, layout);
  }

  async loadModel(
    config: NativeModelConfig,
    tensors: readonly TensorLocation[],
    numThreads: number,
    weights: NativeWeights = { dtype: 'float32', quantization: null },
    onPacked?: (fraction: number) => void,
  ): Promise<NativeModel> {
    checkModelConfig(config);
    checkTensors(tensors);
    checkWeights(weights);
    wholeNumber('numThreads', numThreads, 1, 1024);
    const stopWatching = onPacked && this.#watchPacking(tensors, onPacked);
    try {
      const handle = await crossAsync(() => this.#addon.loadModel(config, tensors, weights, numThreads));
      return new LoadedNativeModel(this.#addon, handle, { ...config });
    } finally {
      stopWatching?.();
    }
  }

  /** Looks at the rows that are packed meanwhile; whoever loads two models at once sees those of both. */
  #watchPacking(tensors: readonly TensorLocation[], onPacked: (fraction: number) => void): () => void {
    const matrices = tensors.filter(({ shape }) => shape.length === 2);
    const numRows = matrices.reduce((sum, { shape }) => sum + shape[0]!, 0);
    const before = this.#addon.numPackedRows();
    const timer = setInterval(() => {
      const packed = this.#addon.numPackedRows() - before;
      if (packed > 0) onPacked(Math.min(1, packed / numRows));
    }, packingIntervalMs);
    timer.unref();
    return () => clearInterval(timer);
  }

  async loadCudaModel(
    config: NativeModelConfig,
    tensors: readonly TensorLocation[],
    options: CudaModelOptions,
  ): Promise<NativeModel> {
    checkModelConfig(config);
    checkTensors(tensors);
    checkCudaOptions(options);
    const weights: NativeWeights = { dtype: 'bfloat16', quantization: null };
    const cuda = {
      ...options,
      kvDtype: kvDtypeNumber(options.kvDtype),
      suppressTokenIds: Int32Array.from(options.suppressTokenIds ?? []),
    };
    const handle = await crossAsync(() => this.#addon.loadModel(config, tensors, weights, 1, cuda));
    return new LoadedNativeModel(this.#addon, handle, { ...config });
  }

  createProbe(spec: ProbeSpec): Probe {
    return new NativeProbe(this.#addon, spec);
  }
}

const packingIntervalMs = 100;

let loaded: Native | undefined;

/** Loads the native module on the first call. Throws NATIVE_UNAVAILABLE where it is missing or does not load. */
export function loadNative(): Native {
  loaded ??= loadNativeFrom(path.join(packageRoot, 'build', 'vllm_pd.node'));
  return loaded;
}

/** The same of another file: a build for tests. Its pools and models do not go with those of another module. */
export function loadNativeFrom(file: string): Native {
  let addon: Addon;
  try {
    addon = createRequire(import.meta.url)(file) as Addon;
  } catch (cause) {
    throw new VllmPdError(
      'NATIVE_UNAVAILABLE',
      `The native module ${file} does not load: ${messageOf(cause)}`,
      {
        cause,
        suggestions: [
          'Compile it: npm rebuild vllm-pd, or in a checkout: node native/build.mjs.',
          'It needs CMake and a C++17 compiler: apt-get install cmake g++.',
        ],
      },
    );
  }
  return new LoadedNative(addon);
}
