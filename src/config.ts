// What an engine is started with: plain data, already checked, with vLLM's names and defaults.

/** What a node is for. `both` is an aggregated node: it prefills and decodes by itself. */
export type NodeRole = 'prefill' | 'decode' | 'both';

/** `uni`: KV moves P→D only. `bi`: P may also pull from D what D already holds. */
export type KvTransferMode = 'uni' | 'bi';

/** How P learns what D holds: by asking it each turn, or by vLLM's ticket from the previous turn. */
export type KvLookup = 'query' | 'ticket';

export type AgentKind = 'auto' | 'shm' | 'tcp';

export interface CacheConfig {
  /** Tokens per block. */
  readonly blockSize: number;
  /** Blocks in the pool, block 0 (the null block) included. */
  readonly numBlocks: number;
  readonly enablePrefixCaching: boolean;
  /** Seed of the block-hash chain; nodes that exchange KV must share it (vLLM: PYTHONHASHSEED). */
  readonly hashSeed: string;
}

export interface SchedulerConfig {
  readonly maxNumSeqs: number;
  /** Token budget of one step. */
  readonly maxNumBatchedTokens: number;
  /** Longest prompt plus answer, in tokens. */
  readonly maxModelLen: number;
}

export interface KvTransferConfig {
  /** Unique per process start, so that a restarted peer is noticed. */
  readonly engineId: string;
  readonly role: NodeRole;
  readonly mode: KvTransferMode;
  readonly lookup: KvLookup;
  /** Fewer external tokens than this are computed by P instead of pulled from D. */
  readonly kvRecomputeThreshold: number;
  /** How long blocks are held for a peer that was told about them, in ms. */
  readonly kvLeaseDurationMs: number;
  /** How long D holds a finished turn's blocks in ticket mode, in ms. */
  readonly decoderKvBlocksTtlMs: number;
  readonly agent: AgentKind;
  readonly sideChannelHost: string;
  /** 0 = any free port. */
  readonly sideChannelPort: number;
  /** What becomes of a request whose blocks did not arrive: computed again, or failed (vLLM's default). */
  readonly kvLoadFailurePolicy: 'recompute' | 'fail';
}

export interface EngineConfig {
  /** A Hugging Face model folder. */
  readonly modelPath: string;
  /** The name that clients ask for. */
  readonly servedModelName: string;
  readonly cache: CacheConfig;
  readonly scheduler: SchedulerConfig;
  readonly kvTransfer: KvTransferConfig;
  /** Compute threads of the native module. */
  readonly numThreads: number;
  /** Seed of sampling for requests that bring none. */
  readonly seed: number;
}

export const defaults = {
  blockSize: 16,
  numBlocks: 1024,
  hashSeed: '0',
  maxNumSeqs: 64,
  // vLLM's CPU-sized default is 2048; at CPU prefill rates that is seconds in which nothing else is admitted.
  maxNumBatchedTokens: 512,
  maxModelLen: 8192,
  kvRecomputeThreshold: 64,
  kvLeaseDurationMs: 30_000,
  decoderKvBlocksTtlMs: 480_000,
} as const;
