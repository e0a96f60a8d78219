// What the engine reports about itself; the server turns it into Prometheus metrics.
import type {
  SchedulerState as EngineState,
  SchedulerPrefixCacheStats as PrefixCacheStats,
  SchedulerStepStats as StepStats,
} from '../core/scheduler-stats.js';
import type { NamedStoreStats as KvStoreStats } from '../kv-store/node-stores.js';
import type { TransferPath } from '../kv-transfer/agent.js';
import type { HopBytes as KvHopBytes } from '../kv-transfer/load-planner.js';
import type { FinishedStatus } from '../request.js';
import type { PrefillStats } from '../wire.js';
import type { SampleGroupStats } from './sample-group.js';

export type { EngineState, KvHopBytes, KvStoreStats, PrefixCacheStats, StepStats };

/** Taken once per request, when it ends. Times in ms; null where the request never got there. */
export interface FinishedRequestStats {
  readonly finished: FinishedStatus;
  readonly numPromptTokens: number;
  readonly numGenerationTokens: number;
  readonly maxTokens: number;
  /** Arrival → first schedule. */
  readonly queuedMs: number | null;
  /** First schedule → first token. */
  readonly prefillMs: number | null;
  /** First → last token. */
  readonly decodeMs: number | null;
  readonly timeToFirstTokenMs: number | null;
  readonly e2eMs: number;
  readonly prefillStats: PrefillStats | null;
  /** Of all answers to the prompt that the call asked for, with the one that ends last; null with the others. */
  readonly call: SampleGroupStats | null;
}

/** Counters since start of what moved between nodes. */
export interface KvTransferStats {
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly bytesReceivedBy: Readonly<Record<TransferPath, number>>;
  readonly numExpiredHolds: number;
  /** Blocks whose checksum did not match on arrival. */
  readonly numDamagedBlocks: number;
  /** Statistics of prefill nodes that could not be. */
  readonly numDroppedStats: number;
}

export interface StatLogger {
  recordStep(stats: StepStats): void;
  /** Gap between two tokens of one request, in ms. */
  recordInterTokenLatency(ms: number): void;
  recordTimeToFirstToken(ms: number): void;
  recordFinished(stats: FinishedRequestStats): void;
  /** One load that ended on this node. */
  recordTransfer(numBytes: number, numBlocks: number, ms: number, failed: boolean): void;
}
