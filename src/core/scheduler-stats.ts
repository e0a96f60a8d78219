// What the scheduler tells about itself; part of the engine's statistics.

/** Taken after every step. */
export interface SchedulerStepStats {
  readonly numRunning: number;
  readonly numWaiting: number;
  readonly numWaitingForRemoteKvs: number;
  /** 0–1, share of the pool that requests and holds occupy. */
  readonly kvCacheUsage: number;
  readonly numHolds: number;
  /** Tokens of the latest step. */
  readonly numScheduledTokens: number;
  /** Preemptions of the latest step. */
  readonly numPreemptions: number;
}

/** Prefix-cache counters since start, in tokens; recorded once a request, at its first admission; cache queries left out. */
export interface SchedulerPrefixCacheStats {
  readonly queries: number;
  readonly hits: number;
  readonly externalQueries: number;
  readonly externalHits: number;
}

/** The pool and the queues right now; what a leak check looks at. */
export interface SchedulerState {
  readonly numBlocks: number;
  readonly numFreeBlocks: number;
  readonly numCachedBlocks: number;
  readonly numRunning: number;
  /** Waiting for any reason, also for remote KV. */
  readonly numWaiting: number;
  readonly numHolds: number;
  readonly numPendingLoads: number;
}
