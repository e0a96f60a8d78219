// What the engine reports about itself; the server turns it into Prometheus metrics.
import type { FinishedStatus } from '../request.js';
import type { PrefillStats } from '../wire.js';

/** Taken after every step. */
export interface StepStats {
  readonly numRunning: number;
  readonly numWaiting: number;
  readonly numWaitingForRemoteKvs: number;
  /** 0–1, share of the pool that requests and holds occupy. */
  readonly kvCacheUsage: number;
  readonly numHolds: number;
  /** Tokens run through the model in this step. */
  readonly numScheduledTokens: number;
  readonly numPreemptions: number;
}

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
}

/** Prefix-cache counters since start, in tokens, as vLLM counts them (recorded at admission, cache queries left out). */
export interface PrefixCacheStats {
  readonly queries: number;
  readonly hits: number;
  readonly externalQueries: number;
  readonly externalHits: number;
}

/** Counters since start of what moved between nodes. */
export interface KvTransferStats {
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly numPulls: number;
  readonly numFailedPulls: number;
  readonly numExpiredHolds: number;
}

/** The pool and queues right now; what a leak check looks at. */
export interface EngineState {
  readonly numBlocks: number;
  readonly numFreeBlocks: number;
  readonly numCachedBlocks: number;
  readonly numRunning: number;
  readonly numWaiting: number;
  readonly numHolds: number;
  readonly numPendingLoads: number;
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
