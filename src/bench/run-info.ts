// What a run was: kept as run.json, and the `run` part of the summary. Field names are a file format.
import type {
  Backend,
  DtypeChoice,
  FirstToken,
  KvCacheDtypeChoice,
  KvLookup,
  KvStoreConfig,
  KvTransferMode,
  RoutingPolicy,
} from '../config.js';
import type { Arrival } from './arrivals.js';
import type { Check } from './checks.js';
import type { DatasetReport } from './datasets/selection.js';
import type { Objectives } from './goodput.js';
import type { HostInfo } from './host.js';

export type BenchName = 'multi-turn' | 'cache-eviction';

export interface RunInfo {
  /** Also the name of its folder below results/. */
  readonly id: string;
  readonly bench: BenchName;
  /** As typed. */
  readonly command: string;
  /** Of vllm-pd. */
  readonly version: string;
  /** Null outside of a git checkout. */
  readonly commit: string | null;
  /** True when the checkout had changes that are not in `commit`. */
  readonly dirty: boolean;
  readonly host: HostInfo;
  readonly started_at: string;
  readonly ended_at: string;
  /** Turns only: without starting nodes and making texts. */
  readonly duration_s: number;
  /** False when the run was interrupted or broke off; what was measured until then is kept. */
  readonly complete: boolean;
  readonly workload: RunWorkload;
  /** How the nodes were set up; null for nodes that the benchmark did not start. */
  readonly config: RunConfig | null;
  /** Address of the proxy that was given with --url. */
  readonly url: string | null;
  readonly checks: readonly Check[];
  /** Percentiles that were asked for besides those that are always there. */
  readonly metric_percentiles?: readonly number[];
  /** What counts as a good turn, if somebody said so. */
  readonly goodput?: Objectives;
}

export interface RunWorkload {
  readonly name: string;
  readonly description: string;
  /** Of the workload file. */
  readonly sha256: string;
  /** Flags that replaced something of the file. */
  readonly overrides: Readonly<Record<string, string | number>>;
  readonly seed: number;
  readonly num_clients: number;
  /** Of an open loop; absent = closed loop. */
  readonly arrival?: Arrival;
  readonly num_conversations: number;
  /** Turns of one mode. */
  readonly num_turns: number;
  readonly evict_prefill_between_turns: boolean;
  /** What was taken of a dataset; absent where there is none. */
  readonly dataset?: DatasetReport;
  readonly modes: readonly KvTransferMode[];
}

export interface RunConfig {
  readonly model: string;
  readonly block_size: number;
  readonly num_prefill_blocks: number;
  readonly num_decode_blocks: number;
  /** Absent with one node of each role. */
  readonly num_prefill_nodes?: number;
  readonly num_decode_nodes?: number;
  readonly prefill_routing?: RoutingPolicy;
  readonly decode_routing?: RoutingPolicy;
  readonly max_model_len: number;
  readonly max_num_seqs: number;
  readonly max_num_batched_tokens: number;
  readonly enable_prefix_caching: boolean;
  readonly kv_lookup: KvLookup;
  /** Absent in runs from before there was a choice: `decode`. */
  readonly first_token?: FirstToken;
  readonly kv_recompute_threshold: number | 'auto';
  /** Storage beyond the pools; absent in runs without any. */
  readonly kv_store?: KvStoreConfig;
  /** Absent in runs from before there was a choice: `cpu`. */
  readonly backend?: Backend;
  /** As it was asked for; absent when the folder's most exact graph ran, or none. */
  readonly onnx_file?: string;
  /** What was asked for. Absent in runs from before there was a choice: `float32`. */
  readonly kv_cache_dtype?: KvCacheDtypeChoice;
  /** As chosen; absent in runs from before there was a choice: `float32`. */
  readonly dtype?: DtypeChoice;
  readonly quantization?: 'none' | 'int8';
  /** On a GPU: whether a token's bits were independent of the rest of its step. */
  readonly batch_invariant?: boolean;
  readonly num_threads: number;
}
