// What an engine is started with: plain data, already checked, with vLLM's names and defaults.
import { availableParallelism } from 'node:os';

/** What a node is for. `both` is an aggregated node: it prefills and decodes by itself. */
export type NodeRole = 'prefill' | 'decode' | 'both';

/** `uni`: KV moves P→D only. `bi`: P may also pull from D what D already holds. */
export type KvTransferMode = 'uni' | 'bi';

/** How P learns what D holds: by asking it each turn, or by vLLM's ticket from the previous turn. */
export type KvLookup = 'query' | 'ticket';

/** Whose first token the client of a proxy gets: P's, at once, which D goes on from; or D's, behind the hand-over. */
export type FirstToken = 'prefill' | 'decode';

export type AgentKind = 'auto' | 'shm' | 'tcp';

/** How a proxy chooses among the nodes of one role. */
export const routingPolicies = ['session', 'prefix', 'least-loaded', 'round-robin'] as const;

export type RoutingPolicy = (typeof routingPolicies)[number];

/** Events as maps with field names, or as arrays: what vLLM published since, and before, June 2026. */
export type KvEventFormat = 'map' | 'array';

/** vLLM's KVEventsConfig under its own names; the last three are this project's. */
export interface KvEventsConfig {
  readonly endpoint: string;
  readonly replay_endpoint: string | null;
  /** Batches kept for replays. */
  readonly buffer_steps: number;
  /** Batches that wait for one slow subscriber before it misses some; 0 = no limit. */
  readonly hwm: number;
  readonly max_queue_size: number;
  readonly topic: string;
  /** Null: as vLLM, and loopback is bound too. */
  readonly bind: boolean | null;
  readonly event_format: KvEventFormat;
  readonly block_hashes: 'int' | 'bytes';
}

export const defaultKvEvents: KvEventsConfig = {
  // vLLM's is tcp://*:5557, which every host reaches.
  endpoint: 'tcp://127.0.0.1:5557',
  replay_endpoint: null,
  buffer_steps: 10_000,
  hwm: 100_000,
  max_queue_size: 100_000,
  topic: '',
  bind: null,
  event_format: 'map',
  block_hashes: 'int',
};

/** What runs the forward pass: the native module on the CPU or on a GPU, or ONNX Runtime. */
export type Backend = 'cpu' | 'cuda' | 'onnx';

/** What the elements of a KV pool are. */
export type KvCacheDtype = 'float32' | 'bfloat16';

/** `auto`: bfloat16 on a GPU and where the CPU computes with it, float32 elsewhere and on ONNX Runtime. */
export type KvCacheDtypeChoice = 'auto' | KvCacheDtype;

/** `auto` is `cuda` where a GPU answers and nothing was asked for that only the CPU has, else `cpu`. */
export type BackendChoice = 'auto' | Backend;

/** Who leaves a full store first. `session`: of the conversation idle for longest, the tail. */
export type EvictionPolicyName = 'lru' | 'lfu' | 'fifo' | 'session';

export const evictionPolicyNames = ['lru', 'lfu', 'fifo', 'session'] as const satisfies EvictionPolicyName[];

export interface StoreTierConfig {
  /** Null = no limit. */
  readonly capacityBytes: number | null;
  /** Since a block was written; null = for ever. */
  readonly ttlMs: number | null;
  readonly policy: EvictionPolicyName;
}

/** Where blocks go beyond the pool. */
export interface KvStoreConfig {
  /** Host memory of this node; null = none. */
  readonly memoryBytes: number | null;
  /** A directory of this node's own; null = none. */
  readonly directory: string | null;
  /** Shared by all nodes: a directory, or a redis:// address; null = none. */
  readonly shared: string | null;
  /** Of the directory; TTL and policy also of the memory. */
  readonly dedicatedTier: StoreTierConfig;
  readonly sharedTier: StoreTierConfig;
  /** False: blocks are read from a peer even where the shared store has them. */
  readonly hopPlanner: boolean;
}

/** What weights and the activations multiplied with them are kept as on backend `cpu`. */
export type Dtype = 'float32' | 'bfloat16';

/** `auto` is bfloat16 where the CPU has AVX-512 or AMX, else float32. */
export type DtypeChoice = 'auto' | Dtype;

/** `int8`: weights by output channel when loaded, activations by token as they come (vLLM's W8A8, dynamic). */
export type Quantization = 'none' | 'int8';

export interface CacheConfig {
  /** Tokens per block. */
  readonly blockSize: number;
  /** Blocks in the pool, block 0 (the null block) included. */
  readonly numBlocks: number;
  readonly enablePrefixCaching: boolean;
  /** Seed of the block-hash chain; nodes that exchange KV must share it (vLLM: PYTHONHASHSEED). */
  readonly hashSeed: string;
}

/** Who goes first: who came first, or whose `priority` is lower (vLLM's two). */
export type SchedulingPolicy = 'fcfs' | 'priority';

export interface SchedulerConfig {
  readonly maxNumSeqs: number;
  /** Token budget of one step. */
  readonly maxNumBatchedTokens: number;
  /** Longest prompt plus answer, in tokens. */
  readonly maxModelLen: number;
  /** Requests that may wait for blocks or a slot; more are refused. */
  readonly maxWaiting: number;
  readonly policy: SchedulingPolicy;
}

export interface KvTransferConfig {
  /** Unique per process start, so that a restarted peer is noticed. */
  readonly engineId: string;
  readonly role: NodeRole;
  readonly mode: KvTransferMode;
  readonly lookup: KvLookup;
  /** The proxy's choice; nodes do as each request says. */
  readonly firstToken: FirstToken;
  /** Fewer external tokens than this are computed by P instead of pulled from D; `auto` = whatever was measured to cost less. */
  readonly kvRecomputeThreshold: number | 'auto';
  /** How long blocks are held for a peer that was told about them, in ms. */
  readonly kvLeaseDurationMs: number;
  /** How long D holds a finished turn's blocks in ticket mode, in ms. */
  readonly decoderKvBlocksTtlMs: number;
  /** A read from a peer or a store that takes longer is given up, and its tokens are computed, in ms. */
  readonly kvReadTimeoutMs: number;
  /** How long a peer may take to let this node in, or to confirm that a read has ended, in ms. */
  readonly kvPeerTimeoutMs: number;
  readonly agent: AgentKind;
  readonly sideChannelHost: string;
  /** 0 = any free port. */
  readonly sideChannelPort: number;
  /** Shared by all nodes that exchange KV, as long as a password; null = anybody who reaches the side channel may. */
  readonly key: string | null;
  /** A side channel that other hosts reach may do without a key. */
  readonly insecure: boolean;
  /** Whom this node may connect to, as `PeerPolicy` takes them; none = this machine. */
  readonly peers: readonly string[];
  /** What becomes of a request whose blocks did not arrive: computed again, or failed (vLLM's default). */
  readonly kvLoadFailurePolicy: 'recompute' | 'fail';
}

/** What only backend `cuda` looks at. */
export interface CudaConfig {
  /** The share of the device's memory that this node may fill, which sizes the pool; null = `cache.numBlocks` does. */
  readonly gpuMemoryUtilization: number | null;
  /** A token's bits do not depend on what else is in its step, so that all modes answer alike. False is faster. */
  readonly batchInvariant: boolean;
}

export interface EngineConfig {
  /** A Hugging Face model folder. */
  readonly modelPath: string;
  /** The name that clients ask for. */
  readonly servedModelName: string;
  readonly cache: CacheConfig;
  readonly scheduler: SchedulerConfig;
  readonly kvTransfer: KvTransferConfig;
  readonly kvStore: KvStoreConfig;
  readonly backend: Backend;
  /** What K and V are kept as. */
  readonly kvCacheDtype: KvCacheDtypeChoice;
  readonly dtype: DtypeChoice;
  readonly quantization: Quantization;
  readonly cuda: CudaConfig;
  /** Compute threads of the backend. */
  readonly numThreads: number;
  /** Seed of sampling for requests that bring none. */
  readonly seed: number;
  /** Answers that come back in a chat are encoded as the ids that were generated. */
  readonly reuseTokenIds: boolean;
  /** Null = nobody is told which blocks are cached. */
  readonly kvEvents: KvEventsConfig | null;
}

export type KvStoreOptions = Partial<Omit<KvStoreConfig, 'dedicatedTier' | 'sharedTier'>> & {
  readonly dedicatedTier?: Partial<StoreTierConfig>;
  readonly sharedTier?: Partial<StoreTierConfig>;
};

/** What a user chose, by flags or by a workload; whatever is absent takes its default. */
export interface EngineOptions {
  /** A name that `resolveModel` knows, or a Hugging Face model folder. */
  readonly model?: string;
  readonly servedModelName?: string;
  readonly cache?: Partial<CacheConfig>;
  readonly scheduler?: Partial<SchedulerConfig>;
  readonly kvTransfer?: Partial<Omit<KvTransferConfig, 'engineId' | 'role'>>;
  readonly kvStore?: KvStoreOptions;
  readonly backend?: BackendChoice;
  readonly kvCacheDtype?: KvCacheDtypeChoice;
  readonly dtype?: DtypeChoice;
  readonly quantization?: Quantization;
  readonly gpuMemoryUtilization?: number;
  readonly batchInvariant?: boolean;
  readonly numThreads?: number;
  readonly seed?: number;
  readonly reuseTokenIds?: boolean;
  readonly kvEvents?: KvEventsConfig | null;
}

export const defaults = {
  model: 'default',
  blockSize: 16,
  numBlocks: 1024,
  hashSeed: '0',
  kvCacheDtype: 'auto',
  maxNumSeqs: 64,
  // vLLM's CPU-sized default is 2048; at CPU prefill rates that is seconds in which nothing else is admitted.
  maxNumBatchedTokens: 512,
  cudaMaxNumBatchedTokens: 8192,
  gpuMemoryUtilization: 0.9,
  batchInvariant: true,
  maxModelLen: 8192,
  // vLLM's queue has no end; memory has.
  maxWaiting: 1024,
  schedulingPolicy: 'fcfs',
  drainTimeoutMs: 5000,
  // Where a conversation was, most of its KV is; asking costs nothing then.
  routing: 'session',
  kvRecomputeThreshold: 64,
  kvLeaseDurationMs: 30_000,
  decoderKvBlocksTtlMs: 480_000,
  kvReadTimeoutMs: 30_000,
  // vLLM's receive timeout.
  kvPeerTimeoutMs: 5000,
  kvTransferMode: 'bi',
  kvLookup: 'query',
  firstToken: 'prefill',
  agent: 'auto',
  sideChannelHost: '127.0.0.1',
  // vLLM fails the request; here a load that did not arrive costs recomputation only.
  kvLoadFailurePolicy: 'recompute',
  kvStorePolicy: 'lru',
  backend: 'auto',
  dtype: 'auto',
  quantization: 'none',
  seed: 0,
} as const;

/** Both sets of choices; where both say something, `over` holds. */
export function mergeEngineOptions(base: EngineOptions, over: EngineOptions): EngineOptions {
  return {
    ...base,
    ...over,
    cache: { ...base.cache, ...over.cache },
    scheduler: { ...base.scheduler, ...over.scheduler },
    kvTransfer: { ...base.kvTransfer, ...over.kvTransfer },
    kvStore: mergeKvStore(base.kvStore, over.kvStore),
  };
}

function mergeKvStore(base: KvStoreOptions = {}, over: KvStoreOptions = {}): KvStoreOptions {
  return {
    ...base,
    ...over,
    dedicatedTier: { ...base.dedicatedTier, ...over.dedicatedTier },
    sharedTier: { ...base.sharedTier, ...over.sharedTier },
  };
}

/** Without the entries that are undefined: laid over other choices, they would hide these. */
export function given<T extends object>(choices: { readonly [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(choices).filter(([, value]) => value !== undefined)) as T;
}

/** Fills in the defaults; a backend that is still `auto` is `cpu` here. `node` brings what is not a choice: the resolved folder, this start's id, the role. */
export function completeEngineConfig(
  options: EngineOptions,
  node: { readonly modelPath: string; readonly engineId: string; readonly role: NodeRole },
): EngineConfig {
  const backend = options.backend === 'onnx' || options.backend === 'cuda' ? options.backend : 'cpu';
  return {
    modelPath: node.modelPath,
    servedModelName: options.servedModelName ?? options.model ?? defaults.model,
    cache: {
      blockSize: defaults.blockSize,
      numBlocks: defaults.numBlocks,
      enablePrefixCaching: true,
      hashSeed: defaults.hashSeed,
      ...options.cache,
    },
    scheduler: {
      maxNumSeqs: defaults.maxNumSeqs,
      maxNumBatchedTokens:
        backend === 'cuda' ? defaults.cudaMaxNumBatchedTokens : defaults.maxNumBatchedTokens,
      maxModelLen: defaults.maxModelLen,
      maxWaiting: defaults.maxWaiting,
      policy: defaults.schedulingPolicy,
      ...options.scheduler,
    },
    kvTransfer: {
      mode: defaults.kvTransferMode,
      lookup: defaults.kvLookup,
      firstToken: defaults.firstToken,
      kvRecomputeThreshold: defaults.kvRecomputeThreshold,
      kvLeaseDurationMs: defaults.kvLeaseDurationMs,
      decoderKvBlocksTtlMs: defaults.decoderKvBlocksTtlMs,
      kvReadTimeoutMs: defaults.kvReadTimeoutMs,
      kvPeerTimeoutMs: defaults.kvPeerTimeoutMs,
      agent: defaults.agent,
      sideChannelHost: defaults.sideChannelHost,
      sideChannelPort: 0,
      kvLoadFailurePolicy: defaults.kvLoadFailurePolicy,
      key: null,
      insecure: false,
      peers: [],
      ...options.kvTransfer,
      engineId: node.engineId,
      role: node.role,
    },
    kvStore: completeKvStore(options.kvStore),
    backend,
    kvCacheDtype: options.kvCacheDtype ?? defaults.kvCacheDtype,
    dtype: options.dtype ?? defaults.dtype,
    quantization: options.quantization ?? defaults.quantization,
    cuda: {
      gpuMemoryUtilization:
        options.cache?.numBlocks === undefined
          ? (options.gpuMemoryUtilization ?? defaults.gpuMemoryUtilization)
          : null,
      batchInvariant: options.batchInvariant ?? defaults.batchInvariant,
    },
    numThreads: options.numThreads ?? availableParallelism(),
    seed: options.seed ?? defaults.seed,
    reuseTokenIds: options.reuseTokenIds ?? false,
    kvEvents: options.kvEvents ?? null,
  };
}

/** Without a store where none was chosen. */
export function completeKvStore(options: KvStoreOptions = {}): KvStoreConfig {
  const tier = { capacityBytes: null, ttlMs: null };
  return {
    memoryBytes: null,
    directory: null,
    shared: null,
    hopPlanner: true,
    ...options,
    dedicatedTier: { ...tier, policy: defaults.kvStorePolicy, ...options.dedicatedTier },
    sharedTier: { ...tier, policy: defaults.kvStorePolicy, ...options.sharedTier },
  };
}
