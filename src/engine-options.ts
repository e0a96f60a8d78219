// What a user chose of an engine's configuration, by flags or by a workload, and the defaults that complete it.
import { availableParallelism } from 'node:os';
import type {
  BackendChoice,
  CacheConfig,
  DtypeChoice,
  EngineConfig,
  KvCacheDtypeChoice,
  KvEventsConfig,
  KvStoreConfig,
  KvTransferConfig,
  NodeRole,
  Quantization,
  SchedulerConfig,
  StoreTierConfig,
} from './config.js';

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
  readonly onnxFile?: string;
  readonly chatTemplate?: string;
  readonly generationConfig?: string;
  readonly overrideGenerationConfig?: Readonly<Record<string, unknown>>;
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
  generationConfig: 'auto',
  quantization: 'none',
  seed: 0,
} as const;

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
    onnxFile: options.onnxFile ?? null,
    chatTemplate: options.chatTemplate ?? null,
    generation: {
      source: options.generationConfig ?? defaults.generationConfig,
      overrides: options.overrideGenerationConfig ?? {},
    },
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
