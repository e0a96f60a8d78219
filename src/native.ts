// The native module's typed face, and the only file that loads it. Everything is validated here, before it crosses.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { KvCacheDtype } from './config.js';
import { messageOf, VllmPdError } from './errors.js';
import { type Addon, cross, crossAsync } from './native/addon.js';
import {
  checkCudaOptions,
  checkModelConfig,
  checkTensors,
  checkWeights,
  wholeNumber,
} from './native/arguments.js';
import { NativeBlockHash } from './native/block-hash.js';
import { NativeDataLanes, NativeDataServer } from './native/data-channel.js';
import { NativeKvPool, NativePeerPool } from './native/kv-pool.js';
import { LoadedNativeModel } from './native/model.js';
import { NativeProbe } from './native/probe.js';

/** Shape of a KV pool: `(num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim)` of `dtype`, one region. */
export interface KvPoolLayout {
  readonly numBlocks: number;
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly blockSize: number;
  readonly headDim: number;
  readonly dtype: KvCacheDtype;
}

/** Where a pool's blocks lie: in the memfd, or on the GPU that this process computes on. */
export type KvPlace = 'host' | 'device';

/**
 * A node's KV blocks in a memfd, with a table of one row a block beside them (generation counter, SHA-256).
 * On a device only the table is in the memfd, and peers read the blocks through CUDA IPC.
 * Peers of the same user map it through `/proc/<pid>/fd/<fd>` and read it without asking.
 */
export interface KvPool {
  readonly layout: KvPoolLayout;
  /** num_layers * 2 * num_kv_heads * block_size * head_dim * 4 (float32) or 2 (bfloat16) */
  readonly blockBytes: number;
  /** Where the blocks lie; the table is the host's anyway. */
  readonly place: KvPlace;
  readonly fd: number;
  /** Says that the block now holds exactly the tokens named by `hash` (64 hex digits). */
  publish(blockId: number, hash: string): void;
  /** Says that the block's contents are about to change. Call before it is written again. */
  retract(blockId: number): void;
  /** `hash` null = nothing published. The generation changes with every publish and retract. */
  row(blockId: number): { readonly generation: number; readonly hash: string | null };
  /** The block's bytes, a live view. For tests and small reads. Throws NOT_SUPPORTED for blocks on a device. */
  block(blockId: number): Uint8Array;
  /**
   * Copies blocks out for a peer: each is copied only if its row says `hashes[i]` before and after.
   * `data` has blockIds.length * blockBytes bytes; `valid[i]` is 1 where block i is what was asked for. Synchronous.
   */
  copyOut(blockIds: readonly number[], hashes: readonly string[]): { data: Uint8Array; valid: Uint8Array };
  /** Copies `data` (blockIds.length * blockBytes bytes, in order) into the blocks. Synchronous. */
  copyIn(blockIds: readonly number[], data: Uint8Array): void;
  /** Unmaps and closes. Must not be called while a forward pass or a read uses the pool. Idempotent. */
  close(): void;
}

/** A peer's pool, mapped read-only. */
export interface PeerPool {
  readonly layout: KvPoolLayout;
  /**
   * One-sided read on a native thread: copies remote block i into local block i of `into`, verified against
   * `hashes[i]` before and after. Resolves to one byte per block: 1 = arrived intact, 0 = stale (local bytes undefined).
   */
  read(
    into: KvPool,
    remoteBlockIds: readonly number[],
    localBlockIds: readonly number[],
    hashes: readonly string[],
  ): Promise<Uint8Array>;
  close(): void;
}

/** The owner's end of the data channel (native/data_channel.h): sends blocks on threads of its own. */
export interface DataServer {
  readonly port: number;
  /** Bytes of valid blocks, since it was made. */
  readonly bytesSent: number;
  /** Connections that begin with the secret (64 hex digits) belong to this session. */
  openSession(): { readonly id: number; readonly secret: string };
  closeSession(id: number): void;
  /** Queues a reply; which blocks may be read is the caller's business. False where the session has no such connection. */
  send(
    session: number,
    lane: number,
    seq: number,
    blockIds: readonly number[],
    hashes: readonly string[],
  ): boolean;
  /** Ends all connections. Idempotent. */
  close(): void;
}

/** The reader's end: connections to one owner, a native thread for each. */
export interface DataLanes {
  /**
   * Receives the connection's next reply, which must be number `seq`, into the blocks; resolves to one byte a block: 1 =
   * arrived intact, 0 = stale, 2 = damaged on its way by its checksum (local bytes undefined). Rejects with PEER_FAILED;
   * the connection is of no use then. When it is settled, nothing writes into the blocks any more.
   */
  receive(
    lane: number,
    seq: number,
    into: KvPool,
    blockIds: readonly number[],
    hashes: readonly string[],
  ): Promise<Uint8Array>;
  /** Ends receives under way. Idempotent. */
  close(): void;
}

/** What the forward pass needs to know of a decoder; weights shapes follow from it. */
export interface NativeModelConfig {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly rmsNormEps: number;
  /** RMSNorm over head_dim on q and k before the rotary embedding (Qwen3). */
  readonly qkNorm: boolean;
  /** Biases on q, k, v (Qwen2, and Llama with `attention_bias`). */
  readonly attentionBias: boolean;
  /** A bias on the attention's output projection (Llama with `attention_bias`); default false. */
  readonly outputBias?: boolean;
  /** Biases on the MLP's three projections (Llama with `mlp_bias`); default false. */
  readonly mlpBias?: boolean;
  readonly tieWordEmbeddings: boolean;
  /**
   * (rotary_dim / 2) rotary inverse frequencies, any rope scaling already applied. Only the first rotary_dim of a
   * head's dimensions are rotated, in pairs (i, i + rotary_dim / 2); the others stay as they are.
   */
  readonly invFreq: Float32Array;
  /** Layers, ascending, whose queries and keys are not rotated at all (SmolLM3); default none. */
  readonly noRopeLayers?: readonly number[];
  /**
   * (num_layers) Keys that a query sees at most, its own included: at position p those above p - window. 0 = all.
   * Absent: all, in every layer.
   */
  readonly slidingWindows?: readonly number[];
  /** Factor on cos and sin (1 unless a rope scaling asks for another). */
  readonly ropeAttentionScaling: number;
}

export type TensorDtype = 'F32' | 'BF16' | 'F16';

/** What weights are kept as, whatever the checkpoint has. */
export interface NativeWeights {
  readonly dtype: 'float32' | 'bfloat16';
  /** `int8`: matrices are quantised, one scale for each output channel, and so are the rows multiplied with them. */
  readonly quantization: 'int8' | null;
  /** Where the packed form is kept for the next start, and for other processes; absent = in memory only. */
  readonly cache?: PackedCache;
}

export interface PackedCache {
  /** Absolute paths, best first: one with the packed weights is mapped, else the first that can be written is. */
  readonly paths: readonly string[];
  /** Names the weights and what they are kept as, in at most 180 characters; a file made for another is replaced. */
  readonly key: string;
}

/** How a model came by its packed weights: from a file, from the checkpoint into a file, or into memory alone. */
export type WeightSource = 'mapped' | 'written' | 'memory';

/** Where one tensor lies in a safetensors file; the native module maps the file and converts. */
export interface TensorLocation {
  /** Hugging Face name, e.g. `model.layers.0.self_attn.q_proj.weight`. */
  readonly name: string;
  readonly path: string;
  readonly dtype: TensorDtype;
  readonly shape: readonly number[];
  /** Byte offset in the file, and length in bytes. */
  readonly offset: number;
  readonly length: number;
}

/** One step's tokens, all requests flattened, no padding. */
export interface ForwardInput {
  /** (num_tokens) */
  readonly tokenIds: Int32Array;
  /** (num_tokens) */
  readonly positions: Int32Array;
  /** (num_requests + 1) prefix sums of tokens per request. */
  readonly cuSeqlensQ: Int32Array;
  /** Block tables of all requests, one after the other… */
  readonly blockTables: Int32Array;
  /** …and where each begins: (num_requests + 1). */
  readonly cuBlocks: Int32Array;
  /** (num_logits_rows) indices into tokenIds whose logits are wanted. */
  readonly logitsIndices: Int32Array;
  /**
   * (num_requests) Something that stands for each request's sequence, the same object step after step while its tokens
   * only grow. For backends that keep KV beside the pool from one step to the next; the native module looks past it.
   */
  readonly sequences?: readonly object[];
}

export interface NativeModel {
  readonly config: NativeModelConfig;
  readonly weightSource: WeightSource;
  /**
   * Runs the whole forward pass on native threads: writes K and V of every token into the pool at
   * `block_table[position / block_size]`, slot `position % block_size`, and resolves to (num_logits_rows, vocab_size)
   * logits. A token's logits are bit-equal whatever else is in the batch and however its prompt was chunked.
   * One call at a time.
   */
  forward(pool: KvPool, input: ForwardInput): Promise<Float32Array>;
  /** Frees the weights and ends the threads. Idempotent; must not be called during a forward pass. */
  close(): void;
}

/** What a matrix of a probe is kept as. */
export type ProbeWeightType = 'float32' | 'bfloat16' | 'int8';

/** What `bench kernels` measures by itself. `numThreads` counts the calling thread. */
export type ProbeSpec =
  /** Multiply-adds in registers, in the instructions that multiply such weights, all threads together. */
  | {
      readonly kind: 'fma';
      readonly numThreads: number;
      readonly numFmas: number;
      readonly weightType: ProbeWeightType;
    }
  /** Reads one buffer, copies it to another, or streams it over `numThreads` loopback connections. */
  | { readonly kind: 'read' | 'copy' | 'socket'; readonly numThreads: number; readonly numBytes: number }
  /** (num_rows, k) times packed weights (n, k). */
  | {
      readonly kind: 'matmul';
      readonly numThreads: number;
      readonly numRows: number;
      readonly k: number;
      readonly n: number;
      readonly weightType: ProbeWeightType;
    }
  /** `numTokens` of each request attend to themselves and `numContextTokens` before them, layer after layer. */
  | {
      readonly kind: 'attention';
      readonly numThreads: number;
      readonly numRequests: number;
      readonly numTokens: number;
      readonly numContextTokens: number;
      readonly numLayers: number;
      readonly numHeads: number;
      readonly numKvHeads: number;
      readonly headDim: number;
      readonly blockSize: number;
      readonly dtype: KvCacheDtype;
    };

/** A piece of native work with everything that it needs. */
export interface Probe {
  /** One round; synchronous. */
  run(): void;
  /** Idempotent. */
  close(): void;
}

/** What this process could use of CUDA. */
export interface CudaFacts {
  /** 13000 is CUDA 13.0; 0 without a driver. */
  readonly driverVersion: number;
  readonly devices: readonly {
    readonly name: string;
    /** Compute capability, e.g. `9.0`. */
    readonly capability: string;
    readonly numMultiprocessors: number;
    readonly memoryBytes: number;
  }[];
  /** Size of the kernels in the module; 0 where it was built without nvcc. */
  readonly fatbinBytes: number;
  /** A whole sentence, or empty where a device can be used. */
  readonly whyNot: string;
  /** Likewise for cuBLASLt. */
  readonly whyNoCublasLt: string;
}

/** How a model runs on a GPU. Memory for steps of the given size is taken at once; larger steps take more. */
export interface CudaModelOptions {
  /** False: cuBLASLt where it is found, whose sums may depend on the number of rows. */
  readonly batchInvariant: boolean;
  /** Of one step. */
  readonly maxTokens: number;
  readonly maxRequests: number;
  /** Longest sequence, in tokens. */
  readonly maxPositions: number;
}

/** How the module was compiled. */
export interface BuildFacts {
  readonly compiler: string;
  /** Version of nvcc; null where the CUDA kernels were left out. */
  readonly nvcc: string | null;
}

export interface Native {
  /** Default `host`. Throws INVALID_ARGUMENT where it does not fit, NOT_SUPPORTED without a device. */
  createPool(layout: KvPoolLayout, place?: KvPlace): KvPool;
  /** Maps the pool of process `pid` (same user, same host). Throws PEER_FAILED if it cannot. */
  openPeerPool(pid: number, fd: number, layout: KvPoolLayout): PeerPool;
  /** Listens on any free port of that host. Throws INVALID_ARGUMENT when it is not this machine's. */
  createDataServer(pool: KvPool, host: string): DataServer;
  /** Rejects with PEER_FAILED when the owner cannot be reached or does not know the secret. */
  openDataLanes(
    address: { readonly host: string; readonly port: number },
    secret: string,
    numLanes: number,
  ): Promise<DataLanes>;
  /** The checksum of blocks on data connections. `portable`: without the chip's instruction. */
  crc32c(bytes: Uint8Array, options?: { readonly portable: boolean }): number;
  /** Maps and packs the weights on a native thread; float32 unless `weights` says otherwise. */
  loadModel(
    config: NativeModelConfig,
    tensors: readonly TensorLocation[],
    numThreads: number,
    weights?: NativeWeights,
  ): Promise<NativeModel>;
  /** Brings the weights to the GPU, in bfloat16. Throws NOT_SUPPORTED without one, or for shapes that kernels do not take. */
  loadCudaModel(
    config: NativeModelConfig,
    tensors: readonly TensorLocation[],
    options: CudaModelOptions,
  ): Promise<NativeModel>;
  /** Bytes on the device: not in use by anybody, in use by this process, there at all. Throws NOT_SUPPORTED without one. */
  cudaMemory(): { readonly free: number; readonly own: number; readonly total: number };
  /**
   * Hashes of `numBlocks` full blocks behind `parent`, the first token at `begin`, as src/core/block-hash.ts defines them
   * for blocks without extra keys. Token ids must be uint32. `portable`: without the chip's SHA instructions.
   */
  hashBlocks(
    parent: string,
    tokenIds: readonly number[],
    begin: number,
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

  createDataServer(pool: KvPool, host: string): DataServer {
    return new NativeDataServer(this.#addon, pool, host);
  }

  openDataLanes(
    address: { readonly host: string; readonly port: number },
    secret: string,
    numLanes: number,
  ): Promise<DataLanes> {
    return NativeDataLanes.open(this.#addon, address, secret, numLanes);
  }

  crc32c(bytes: Uint8Array, options?: { readonly portable: boolean }): number {
    return cross(() => this.#addon.crc32c(bytes, options?.portable ?? false));
  }

  openPeerPool(pid: number, fd: number, layout: KvPoolLayout): PeerPool {
    return new NativePeerPool(this.#addon, pid, fd, layout);
  }

  async loadModel(
    config: NativeModelConfig,
    tensors: readonly TensorLocation[],
    numThreads: number,
    weights: NativeWeights = { dtype: 'float32', quantization: null },
  ): Promise<NativeModel> {
    checkModelConfig(config);
    checkTensors(tensors);
    checkWeights(weights);
    wholeNumber('numThreads', numThreads, 1, 1024);
    const handle = await crossAsync(() => this.#addon.loadModel(config, tensors, weights, numThreads));
    return new LoadedNativeModel(this.#addon, handle, { ...config });
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
    const handle = await crossAsync(() => this.#addon.loadModel(config, tensors, weights, 1, options));
    return new LoadedNativeModel(this.#addon, handle, { ...config });
  }

  createProbe(spec: ProbeSpec): Probe {
    return new NativeProbe(this.#addon, spec);
  }
}

/** The package's folder, from dist/src as well as from an installed package. */
function packageRoot(): string {
  let folder = path.dirname(fileURLToPath(import.meta.url));
  while (!existsSync(path.join(folder, 'package.json')) || !existsSync(path.join(folder, 'native'))) {
    const parent = path.dirname(folder);
    if (parent === folder) return path.dirname(fileURLToPath(import.meta.url));
    folder = parent;
  }
  return folder;
}

let loaded: Native | undefined;

/** Loads the native module on the first call. Throws NATIVE_UNAVAILABLE where it is missing or does not load. */
export function loadNative(): Native {
  if (loaded) return loaded;
  const file = path.join(packageRoot(), 'build', 'vllm_pd.node');
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
  loaded = new LoadedNative(addon);
  return loaded;
}
