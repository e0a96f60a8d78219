// GET /metrics: what one engine did, under vLLM's names, and this project's own under `vllm_pd:`.
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { NodeRole } from '../config.js';
import type { Engine } from '../engine/engine.js';
import type { FinishedRequestStats, StatLogger, StepStats } from '../engine/stats.js';
import type { FinishedStatus } from '../request.js';
import { ledgerBins } from '../wire.js';
import * as buckets from './metrics-buckets.js';

const finishReasons: Partial<Record<FinishedStatus, string>> = {
  FINISHED_STOPPED: 'stop',
  FINISHED_LENGTH_CAPPED: 'length',
  FINISHED_ABORTED: 'abort',
  FINISHED_IGNORED: 'length',
  FINISHED_ERROR: 'error',
};

/** Which way the blocks go that a node of this role sends, and those that it receives. */
const directions: Record<NodeRole, { readonly sent: string; readonly received: string }> = {
  prefill: { sent: 'p_to_d', received: 'd_to_p' },
  decode: { sent: 'd_to_p', received: 'p_to_d' },
  both: { sent: 'peer_to_peer', received: 'peer_to_peer' },
};

/** Registers itself with the engine; one per server. */
export class EngineMetrics implements StatLogger {
  readonly registry = new Registry();
  readonly #engine: Engine;
  readonly #direction: { readonly sent: string; readonly received: string };
  #lastStep: StepStats | null = null;

  readonly #promptTokens = this.#counter('vllm:prompt_tokens_total', 'Prompt tokens of finished requests.');
  readonly #cachedTokens = this.#counter(
    'vllm:prompt_tokens_cached_total',
    'Prompt tokens that were not computed.',
  );
  readonly #generationTokens = this.#counter('vllm:generation_tokens_total', 'Tokens generated.');
  readonly #preemptions = this.#counter('vllm:num_preemptions_total', 'Preemptions since start.');
  readonly #success = this.#counter('vllm:request_success_total', 'Requests that ended.', [
    'finished_reason',
  ]);
  readonly #ledger = this.#counter(
    'vllm_pd:prompt_tokens_ledger_total',
    'Prompt tokens by how they came to have KV.',
    ['bin'],
  );
  readonly #transfers = this.#counter('vllm_pd:kv_transfers_total', 'Loads that ended on this node.', [
    'direction',
    'status',
  ]);
  readonly #transferSeconds = this.#histogram(
    'vllm_pd:kv_transfer_seconds',
    'Time of one load.',
    buckets.transfer,
  );
  readonly #timeToFirstToken = this.#histogram(
    'vllm:time_to_first_token_seconds',
    'Arrival to first token.',
    buckets.firstToken,
  );
  readonly #interTokenLatency = this.#histogram(
    'vllm:inter_token_latency_seconds',
    'Gap between two tokens of one request.',
    buckets.perToken,
  );
  readonly #timePerOutputToken = this.#histogram(
    'vllm:request_time_per_output_token_seconds',
    'Mean gap between the tokens of one request.',
    buckets.perToken,
  );
  readonly #e2e = this.#histogram('vllm:e2e_request_latency_seconds', 'Arrival to end.', buckets.request);
  readonly #queue = this.#histogram(
    'vllm:request_queue_time_seconds',
    'Arrival to first schedule.',
    buckets.request,
  );
  readonly #inference = this.#histogram(
    'vllm:request_inference_time_seconds',
    'First schedule to last token.',
    buckets.request,
  );
  readonly #prefill = this.#histogram(
    'vllm:request_prefill_time_seconds',
    'First schedule to first token.',
    buckets.request,
  );
  readonly #decode = this.#histogram(
    'vllm:request_decode_time_seconds',
    'First to last token.',
    buckets.request,
  );
  readonly #requestPromptTokens: Histogram;
  readonly #requestGenerationTokens: Histogram;
  readonly #requestMaxTokens: Histogram;
  readonly #requestComputedTokens: Histogram;
  readonly #iterationTokens: Histogram;

  constructor(engine: Engine) {
    this.#engine = engine;
    const { servedModelName, kvTransfer } = engine.config;
    this.#direction = directions[kvTransfer.role];
    this.registry.setDefaultLabels({ model_name: servedModelName, engine: '0' });
    const sizes = buckets.upTo(engine.maxModelLen);
    this.#requestPromptTokens = this.#histogram('vllm:request_prompt_tokens', 'Tokens of one prompt.', sizes);
    this.#requestGenerationTokens = this.#histogram(
      'vllm:request_generation_tokens',
      'Tokens of one answer.',
      sizes,
    );
    this.#requestMaxTokens = this.#histogram(
      'vllm:request_params_max_tokens',
      'max_tokens of one request.',
      sizes,
    );
    this.#requestComputedTokens = this.#histogram(
      'vllm:request_prefill_kv_computed_tokens',
      'Prompt tokens of one request that were computed.',
      sizes,
    );
    this.#iterationTokens = this.#histogram(
      'vllm:iteration_tokens_total',
      'Tokens run in one step.',
      buckets.iteration,
    );
    this.#addGauges();
    this.#addReadCounters();
    engine.addStatLogger(this);
  }

  recordStep(stats: StepStats): void {
    this.#lastStep = stats;
    this.#preemptions.inc(stats.numPreemptions);
    if (stats.numScheduledTokens > 0) this.#iterationTokens.observe(stats.numScheduledTokens);
  }

  recordTimeToFirstToken(ms: number): void {
    this.#timeToFirstToken.observe(ms / 1000);
    this.#generationTokens.inc();
  }

  recordInterTokenLatency(ms: number): void {
    this.#interTokenLatency.observe(ms / 1000);
    this.#generationTokens.inc();
  }

  recordFinished(stats: FinishedRequestStats): void {
    this.#success.inc({ finished_reason: finishReasons[stats.finished] ?? 'error' });
    this.#recordTimes(stats);
    this.#requestMaxTokens.observe(stats.maxTokens);
    this.#requestPromptTokens.observe(stats.numPromptTokens);
    this.#requestGenerationTokens.observe(stats.numGenerationTokens);
    const { prefillStats } = stats;
    if (!prefillStats) return;
    this.#promptTokens.inc(stats.numPromptTokens);
    this.#cachedTokens.inc(prefillStats.num_prompt_tokens - prefillStats.num_computed_tokens);
    this.#requestComputedTokens.observe(prefillStats.num_computed_tokens);
    for (const bin of ledgerBins) this.#ledger.inc({ bin }, prefillStats.ledger[bin]);
  }

  recordTransfer(_numBytes: number, _numBlocks: number, ms: number, failed: boolean): void {
    this.#transferSeconds.observe(ms / 1000);
    this.#transfers.inc({ direction: this.#direction.received, status: failed ? 'failed' : 'ok' });
  }

  #recordTimes({ queuedMs, prefillMs, decodeMs, e2eMs, numGenerationTokens }: FinishedRequestStats): void {
    this.#e2e.observe(e2eMs / 1000);
    if (queuedMs !== null) this.#queue.observe(queuedMs / 1000);
    if (prefillMs === null || decodeMs === null) return;
    this.#prefill.observe(prefillMs / 1000);
    this.#decode.observe(decodeMs / 1000);
    this.#inference.observe((prefillMs + decodeMs) / 1000);
    if (numGenerationTokens > 1)
      this.#timePerOutputToken.observe(decodeMs / 1000 / (numGenerationTokens - 1));
  }

  /** What is looked up when somebody asks. */
  #addGauges(): void {
    const engine = this.#engine;
    const { cache } = engine.config;
    this.#gauge(
      'vllm:num_requests_running',
      'Requests in the running batch.',
      () => engine.state().numRunning,
    );
    this.#gauge(
      'vllm:num_requests_waiting',
      'Requests that wait for any reason.',
      () => engine.state().numWaiting,
    );
    this.#gauge('vllm:kv_cache_usage_perc', 'Share of the pool in use, 0 to 1.', () => {
      const { numBlocks, numFreeBlocks } = engine.state();
      return 1 - numFreeBlocks / (numBlocks - 1);
    });
    this.#gauge('vllm_pd:num_free_blocks', 'Blocks that nobody uses, cached ones included.', () => {
      return engine.state().numFreeBlocks;
    });
    this.#gauge(
      'vllm_pd:num_cached_blocks',
      'Blocks in the prefix cache.',
      () => engine.state().numCachedBlocks,
    );
    this.#gauge(
      'vllm_pd:num_holds',
      'Leases and finished requests held for a peer.',
      () => engine.state().numHolds,
    );
    this.#gauge('vllm_pd:num_pending_loads', 'Loads under way.', () => engine.state().numPendingLoads);
    new Gauge({
      name: 'vllm:num_requests_waiting_by_reason',
      help: 'Requests that wait, by reason; those that wait for remote KV are deferred.',
      labelNames: ['reason'],
      registers: [this.registry],
      collect: gaugeByReason(() => {
        const deferred = this.#lastStep?.numWaitingForRemoteKvs ?? 0;
        return { deferred, capacity: Math.max(0, engine.state().numWaiting - deferred) };
      }),
    });
    new Gauge({
      name: 'vllm:cache_config_info',
      help: 'The cache configuration.',
      labelNames: ['block_size', 'num_gpu_blocks', 'enable_prefix_caching'],
      registers: [this.registry],
    }).set(
      {
        block_size: cache.blockSize,
        num_gpu_blocks: cache.numBlocks,
        enable_prefix_caching: String(cache.enablePrefixCaching),
      },
      1,
    );
  }

  /** Counters that the engine keeps itself. */
  #addReadCounters(): void {
    const engine = this.#engine;
    const { sent, received } = this.#direction;
    const prefix = () => engine.prefixCacheStats();
    const transfer = () => engine.kvTransferStats();
    this.#readCounter('vllm:prefix_cache_queries_total', 'Prompt tokens looked up.', () => prefix().queries);
    this.#readCounter('vllm:prefix_cache_hits_total', 'Prompt tokens found.', () => prefix().hits);
    this.#readCounter('vllm:external_prefix_cache_queries_total', 'Tokens looked for at a peer.', () => {
      return prefix().externalQueries;
    });
    this.#readCounter('vllm:external_prefix_cache_hits_total', 'Tokens loaded from a peer.', () => {
      return prefix().externalHits;
    });
    this.#readCounter(
      'vllm_pd:kv_holds_expired_total',
      'Holds that ended by expiry.',
      () => transfer().numExpiredHolds,
    );
    this.#readLabelled(
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
    this.#readLabelled(
      'vllm_pd:kv_transfer_bytes_total',
      'Bytes of KV that this node moved.',
      ['direction', 'op'],
      () => [
        [{ direction: sent, op: 'sent' }, transfer().bytesSent],
        [{ direction: received, op: 'received' }, transfer().bytesReceived],
      ],
    );
  }

  #counter(name: string, help: string, labelNames: readonly string[] = []): Counter {
    return new Counter({ name, help, labelNames: [...labelNames], registers: [this.registry] });
  }

  #histogram(name: string, help: string, limits: readonly number[]): Histogram {
    return new Histogram({ name, help, buckets: [...limits], registers: [this.registry] });
  }

  #gauge(name: string, help: string, read: () => number): void {
    const collect = function (this: Gauge) {
      this.set(read());
    };
    new Gauge({ name, help, registers: [this.registry], collect });
  }

  #readCounter(name: string, help: string, read: () => number): void {
    this.#readLabelled(name, help, [], () => [[{}, read()]]);
  }

  #readLabelled(
    name: string,
    help: string,
    labelNames: readonly string[],
    read: () => readonly (readonly [Record<string, string>, number])[],
  ): void {
    const collect = function (this: Counter) {
      this.reset();
      for (const [labels, value] of read()) this.inc(labels, value);
    };
    new Counter({ name, help, labelNames: [...labelNames], registers: [this.registry], collect });
  }
}

function gaugeByReason(read: () => Record<string, number>) {
  return function (this: Gauge) {
    for (const [reason, value] of Object.entries(read())) this.set({ reason }, value);
  };
}
