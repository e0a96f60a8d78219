// GET /metrics: what one engine did, under vLLM's names, and this project's own under `vllm_pd:`.
import type { NodeRole } from '../../config.js';
import type { Engine } from '../../engine/engine.js';
import type { FinishedRequestStats, StatLogger, StepStats } from '../../engine/stats.js';
import type { FinishedStatus } from '../../request.js';
import { ledgerBins } from '../../wire.js';
import * as buckets from './metrics-buckets.js';
import { MetricsRegistry } from './metrics-registry.js';

const finishReasons: Readonly<Record<FinishedStatus, string>> = {
  FINISHED_STOPPED: 'stop',
  FINISHED_LENGTH_CAPPED: 'length',
  // vLLM's P ends so.
  FINISHED_HANDED_OVER: 'length',
  FINISHED_ABORTED: 'abort',
  FINISHED_IGNORED: 'length',
  FINISHED_ERROR: 'error',
};

/** Which way the blocks go that a node of this role sends, and those that it receives. */
const directions: Readonly<Record<NodeRole, { readonly sent: string; readonly received: string }>> = {
  prefill: { sent: 'p_to_d', received: 'd_to_p' },
  decode: { sent: 'd_to_p', received: 'p_to_d' },
  both: { sent: 'peer_to_peer', received: 'peer_to_peer' },
};

/** Registers itself with the engine; one per server. */
export class EngineMetrics implements StatLogger {
  readonly registry: MetricsRegistry;
  readonly #counters: ReturnType<typeof createCounters>;
  readonly #times: ReturnType<typeof createTimes>;
  readonly #sizes: ReturnType<typeof createSizes>;
  readonly #received: string;
  #numWaitingForRemoteKvs = 0;

  constructor(engine: Engine) {
    const { servedModelName, kvTransfer } = engine.config;
    this.registry = new MetricsRegistry({ model_name: servedModelName, engine: '0' });
    this.#counters = createCounters(this.registry);
    this.#times = createTimes(this.registry);
    this.#sizes = createSizes(this.registry, engine.maxModelLen);
    this.#received = directions[kvTransfer.role].received;
    addGauges(this.registry, engine, () => this.#numWaitingForRemoteKvs);
    addReadCounters(this.registry, engine);
    engine.addStatLogger(this);
  }

  recordStep(stats: StepStats): void {
    this.#numWaitingForRemoteKvs = stats.numWaitingForRemoteKvs;
    this.#counters.preemptions.inc(stats.numPreemptions);
    if (stats.numScheduledTokens > 0) this.#sizes.iterationTokens.observe(stats.numScheduledTokens);
  }

  recordTimeToFirstToken(ms: number): void {
    this.#times.firstToken.observe(ms / 1000);
    this.#counters.generationTokens.inc();
  }

  recordInterTokenLatency(ms: number): void {
    this.#times.interToken.observe(ms / 1000);
    this.#counters.generationTokens.inc();
  }

  recordFinished(stats: FinishedRequestStats): void {
    const { prefillStats, numPromptTokens } = stats;
    this.#counters.success.inc({ finished_reason: finishReasons[stats.finished] });
    this.#recordTimes(stats);
    this.#sizes.maxTokens.observe(stats.maxTokens);
    this.#sizes.promptTokens.observe(numPromptTokens);
    this.#sizes.generationTokens.observe(stats.numGenerationTokens);
    if (!prefillStats) return;
    this.#counters.promptTokens.inc(numPromptTokens);
    this.#counters.cachedTokens.inc(prefillStats.num_prompt_tokens - prefillStats.num_computed_tokens);
    this.#sizes.computedTokens.observe(prefillStats.num_computed_tokens);
    for (const bin of ledgerBins) this.#counters.ledger.inc({ bin }, prefillStats.ledger[bin]);
  }

  recordTransfer(_numBytes: number, _numBlocks: number, ms: number, failed: boolean): void {
    this.#times.transfer.observe(ms / 1000);
    this.#counters.transfers.inc({ direction: this.#received, status: failed ? 'failed' : 'ok' });
  }

  #recordTimes({ queuedMs, prefillMs, decodeMs, e2eMs, numGenerationTokens }: FinishedRequestStats): void {
    const times = this.#times;
    times.e2e.observe(e2eMs / 1000);
    if (queuedMs !== null) times.queue.observe(queuedMs / 1000);
    if (prefillMs === null || decodeMs === null) return;
    times.prefill.observe(prefillMs / 1000);
    times.decode.observe(decodeMs / 1000);
    times.inference.observe((prefillMs + decodeMs) / 1000);
    if (numGenerationTokens > 1) times.perOutputToken.observe(decodeMs / 1000 / (numGenerationTokens - 1));
  }
}

function createCounters(registry: MetricsRegistry) {
  return {
    promptTokens: registry.counter('vllm:prompt_tokens_total', 'Prompt tokens of requests that ended.'),
    cachedTokens: registry.counter(
      'vllm:prompt_tokens_cached_total',
      'Prompt tokens that were not computed.',
    ),
    generationTokens: registry.counter('vllm:generation_tokens_total', 'Tokens generated.'),
    preemptions: registry.counter('vllm:num_preemptions_total', 'Preemptions.'),
    success: registry.counter('vllm:request_success_total', 'Requests that ended.', 'finished_reason'),
    ledger: registry.counter(
      'vllm_pd:prompt_tokens_ledger_total',
      'Prompt tokens by how they came to have KV.',
      'bin',
    ),
    transfers: registry.counter(
      'vllm_pd:kv_transfers_total',
      'Loads that ended on this node.',
      'direction',
      'status',
    ),
  };
}

function createTimes(registry: MetricsRegistry) {
  const time = (name: string, help: string, limits: readonly number[]) =>
    registry.histogram(`${name}_seconds`, help, limits);
  const { firstToken, perToken, request, transfer } = buckets;
  return {
    firstToken: time('vllm:time_to_first_token', 'Arrival to first token.', firstToken),
    interToken: time('vllm:inter_token_latency', 'Gap between two tokens of a request.', perToken),
    perOutputToken: time(
      'vllm:request_time_per_output_token',
      'Mean gap between the tokens of a request.',
      perToken,
    ),
    e2e: time('vllm:e2e_request_latency', 'Arrival to end.', request),
    queue: time('vllm:request_queue_time', 'Arrival to first schedule.', request),
    inference: time('vllm:request_inference_time', 'First schedule to last token.', request),
    prefill: time('vllm:request_prefill_time', 'First schedule to first token.', request),
    decode: time('vllm:request_decode_time', 'First to last token.', request),
    transfer: time('vllm_pd:kv_transfer', 'Time of a load.', transfer),
  };
}

function createSizes(registry: MetricsRegistry, maxModelLen: number) {
  const size = (name: string, help: string) => registry.histogram(name, help, buckets.upTo(maxModelLen));
  return {
    promptTokens: size('vllm:request_prompt_tokens', 'Tokens of a prompt.'),
    generationTokens: size('vllm:request_generation_tokens', 'Tokens of an answer.'),
    maxTokens: size('vllm:request_params_max_tokens', 'max_tokens of a request.'),
    computedTokens: size(
      'vllm:request_prefill_kv_computed_tokens',
      'Prompt tokens of a request that were computed.',
    ),
    iterationTokens: registry.histogram(
      'vllm:iteration_tokens_total',
      'Tokens run in a step.',
      buckets.iteration,
    ),
  };
}

function addGauges(registry: MetricsRegistry, engine: Engine, numWaitingForRemoteKvs: () => number): void {
  const { cache } = engine.config;
  const state = () => engine.state();
  registry.gauge('vllm:num_requests_running', 'Requests in the running batch.', () => state().numRunning);
  registry.gauge('vllm:num_requests_waiting', 'Requests that wait for any reason.', () => state().numWaiting);
  registry.labelledGauge(
    'vllm:num_requests_waiting_by_reason',
    'Requests that wait, by reason; those that wait for remote KV are deferred.',
    ['reason'],
    () => {
      const deferred = numWaitingForRemoteKvs();
      return [
        [{ reason: 'deferred' }, deferred],
        [{ reason: 'capacity' }, Math.max(0, state().numWaiting - deferred)],
      ];
    },
  );
  registry.gauge('vllm:kv_cache_usage_perc', 'Share of the pool in use, 0 to 1.', () => {
    return 1 - state().numFreeBlocks / (state().numBlocks - 1);
  });
  registry.gauge(
    'vllm_pd:num_free_blocks',
    'Blocks that nobody uses, cached ones included.',
    () => state().numFreeBlocks,
  );
  registry.gauge('vllm_pd:num_cached_blocks', 'Blocks in the prefix cache.', () => state().numCachedBlocks);
  registry.gauge(
    'vllm_pd:num_holds',
    'Leases, and finished requests held for a peer.',
    () => state().numHolds,
  );
  registry.gauge('vllm_pd:num_pending_loads', 'Loads under way.', () => state().numPendingLoads);
  const info = {
    block_size: String(cache.blockSize),
    cache_dtype: engine.kvCacheDtype,
    num_gpu_blocks: String(cache.numBlocks),
    enable_prefix_caching: String(cache.enablePrefixCaching),
  };
  registry.labelledGauge('vllm:cache_config_info', 'The cache configuration.', Object.keys(info), () => [
    [info, 1],
  ]);
}

/** Counters that the engine keeps itself. */
function addReadCounters(registry: MetricsRegistry, engine: Engine): void {
  const { sent, received } = directions[engine.config.kvTransfer.role];
  const prefix = () => engine.prefixCacheStats();
  const transfer = () => engine.kvTransferStats();
  registry.readCounter('vllm:prefix_cache_queries_total', 'Prompt tokens looked up.', () => prefix().queries);
  registry.readCounter('vllm:prefix_cache_hits_total', 'Prompt tokens found.', () => prefix().hits);
  registry.readCounter(
    'vllm:external_prefix_cache_queries_total',
    'Prompt tokens looked for at a peer.',
    () => {
      return prefix().externalQueries;
    },
  );
  registry.readCounter('vllm:external_prefix_cache_hits_total', 'Prompt tokens loaded from a peer.', () => {
    return prefix().externalHits;
  });
  registry.labelledReadCounter(
    'vllm:prompt_tokens_by_source_total',
    'Prompt tokens by where their KV came from.',
    ['source'],
    () => {
      const { queries, hits, externalHits } = prefix();
      return [
        [{ source: 'local_compute' }, queries - hits - externalHits],
        [{ source: 'local_cache_hit' }, hits],
        [{ source: 'external_kv_transfer' }, externalHits],
      ];
    },
  );
  registry.labelledReadCounter(
    'vllm_pd:kv_transfer_bytes_total',
    'Bytes of KV that this node moved.',
    ['direction', 'op'],
    () => [
      [{ direction: sent, op: 'sent' }, transfer().bytesSent],
      [{ direction: received, op: 'received' }, transfer().bytesReceived],
    ],
  );
  registry.labelledReadCounter(
    'vllm_pd:kv_received_bytes_by_path_total',
    'Bytes of KV that came from peers, by how they came.',
    ['path'],
    () => Object.entries(transfer().bytesReceivedBy).map(([path, bytes]) => [{ path }, bytes]),
  );
  registry.readCounter(
    'vllm_pd:kv_transfer_damaged_blocks_total',
    'Blocks that arrived otherwise than they were sent, and were computed instead.',
    () => transfer().numDamagedBlocks,
  );
  registry.readCounter(
    'vllm_pd:kv_transfer_dropped_stats_total',
    'Statistics of prefill nodes that could not be, without which requests went on.',
    () => transfer().numDroppedStats,
  );
  addStorageCounters(registry, engine);
  registry.readCounter('vllm_pd:kv_holds_expired_total', 'Holds that ended by expiry.', () => {
    return transfer().numExpiredHolds;
  });
}

const nodeNames: Readonly<Record<NodeRole, { readonly self: string; readonly peer: string }>> = {
  prefill: { self: 'p', peer: 'd' },
  decode: { self: 'd', peer: 'p' },
  both: { self: 'node', peer: 'peer' },
};

/** Where KV came from, and what the stores beyond the pool hold and did. */
function addStorageCounters(registry: MetricsRegistry, engine: Engine): void {
  const { self, peer } = nodeNames[engine.config.kvTransfer.role];
  registry.labelledReadCounter(
    'vllm_pd:kv_hop_bytes_total',
    'Bytes of KV by where they came from and went to.',
    ['from', 'to'],
    () => {
      const hops = engine.kvHopBytes();
      const stores = engine.kvStoreStats();
      const written = (tier: string) =>
        stores.reduce((sum, store) => sum + (store.tier === tier ? store.bytesWritten : 0), 0);
      return [
        [{ from: peer, to: self }, hops.peer],
        ...(['dedicated', 'shared'] as const).flatMap((tier) => [
          [{ from: tier, to: self }, hops[tier]] as const,
          [{ from: self, to: tier }, written(tier)] as const,
        ]),
      ];
    },
  );
  registry.readCounter(
    'vllm_pd:kv_two_hop_bytes_total',
    'Bytes read from a peer although the shared store had them.',
    () => engine.kvHopBytes().twoHop,
  );
  const sizes = { numBlocks: 'blocks', numBytes: 'bytes', numQueued: 'queued_blocks' } as const;
  for (const [field, name] of Object.entries(sizes) as [keyof typeof sizes, string][]) {
    registry.labelledGauge(`vllm_pd:kv_store_${name}`, `${name} of a KV store now.`, ['tier', 'medium'], () =>
      engine.kvStoreStats().map((store) => [labelsOf(store), store[field]]),
    );
  }
  const counts = {
    numHits: 'hits',
    numMisses: 'misses',
    numEvicted: 'evicted',
    numExpired: 'expired',
    numCorrupt: 'corrupt',
    numDropped: 'dropped',
    numFailures: 'failures',
  } as const;
  registry.labelledReadCounter(
    'vllm_pd:kv_store_events_total',
    'What happened to blocks, and to calls, of a KV store.',
    ['tier', 'medium', 'event'],
    () =>
      engine
        .kvStoreStats()
        .flatMap((store) =>
          (Object.entries(counts) as [keyof typeof counts, string][]).map(
            ([field, event]) => [{ ...labelsOf(store), event }, store[field]] as const,
          ),
        ),
  );
}

function labelsOf({ tier, medium }: { readonly tier: string; readonly medium: string }) {
  return { tier, medium };
}
