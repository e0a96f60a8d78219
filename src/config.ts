// What an engine is started with: plain data, complete and checked, with vLLM's names.

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

/** What runs the forward pass: the native module on the CPU or on a GPU, or ONNX Runtime. */
export type Backend = 'cpu' | 'cuda' | 'onnx';

/** What the elements of a KV pool are; float16 and fp8 (e4m3, scale 1) on a GPU only. */
export type KvCacheDtype = 'float32' | 'bfloat16' | 'float16' | 'fp8';

/** In bytes. */
export const kvElementBytes: Readonly<Record<KvCacheDtype, number>> = {
  float32: 4,
  bfloat16: 2,
  float16: 2,
  fp8: 1,
};

/** `auto`: on a GPU as the weights, bfloat16 where the CPU computes with it, float32 elsewhere and on ONNX Runtime. */
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

/** What weights and the activations multiplied with them are kept as: float32 on the CPU, float16 on a GPU only. */
export type Dtype = 'float32' | 'bfloat16' | 'float16';

/** `auto` is bfloat16 on a GPU and where the CPU has AVX-512 or AMX, else float32. */
export type DtypeChoice = 'auto' | Dtype;

export const dtypeChoices = ['auto', 'float32', 'bfloat16', 'float16'] as const satisfies DtypeChoice[];

export const kvCacheDtypeChoices = [
  'auto',
  'float32',
  'bfloat16',
  'float16',
  'fp8',
] as const satisfies KvCacheDtypeChoice[];

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

/** Where sampling defaults come from, as vLLM's flags say it. */
export interface GenerationChoice {
  /** `auto`: the model's own generation_config.json; `vllm`: nothing but vLLM's defaults; else a folder with such a file. */
  readonly source: string;
  /** Fields of generation_config.json that hold over the file's. */
  readonly overrides: Readonly<Record<string, unknown>>;
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
  /** Which of several exported graphs backend `onnx` runs; null = the most exact one. */
  readonly onnxFile: string | null;
  readonly generation: GenerationChoice;
  /** A Jinja template, or the path of one, instead of the model's own; null = the model's. */
  readonly chatTemplate: string | null;
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
