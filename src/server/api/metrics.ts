// GET /metrics: what one engine did, under vLLM's names, and this project's own under `vllm_pd:`.
import type { Engine } from '../../engine/engine.js';
import type { FinishedRequestStats, StatLogger, StepStats } from '../../engine/stats.js';
import type { FinishedStatus } from '../../request.js';
import { ledgerBins } from '../../wire.js';
import * as buckets from './metrics-buckets.js';
import { MetricsRegistry } from './metrics-registry.js';
import { addStateMetrics, directions } from './metrics-state.js';
import { addStoreMetrics } from './metrics-stores.js';

const finishReasons: Readonly<Record<FinishedStatus, string>> = {
  FINISHED_STOPPED: 'stop',
  FINISHED_LENGTH_CAPPED: 'length',
  // vLLM's P ends so.
  FINISHED_HANDED_OVER: 'length',
  FINISHED_ABORTED: 'abort',
  FINISHED_IGNORED: 'length',
  FINISHED_ERROR: 'error',
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
    addStateMetrics(this.registry, engine, () => this.#numWaitingForRemoteKvs);
    addStoreMetrics(this.registry, engine);
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
    if (stats.call) {
      this.#sizes.samples.observe(stats.call.numSamples);
      this.#sizes.maxGenerationTokens.observe(stats.call.maxGenerationTokens);
    }
    if (!prefillStats) return;
    this.#counters.promptTokens.inc(numPromptTokens);
    this.#counters.cachedTokens.inc(prefillStats.num_prompt_tokens - prefillStats.num_computed_tokens);
    this.#sizes.computedTokens.observe(prefillStats.num_computed_tokens);
    for (const bin of ledgerBins) this.#counters.ledger.inc({ bin }, prefillStats.ledger[bin]);
  }

  recordTransfer(numBytes: number, numBlocks: number, ms: number, failed: boolean): void {
    this.#times.transfer.observe(ms / 1000);
    this.#counters.transfers.inc({ direction: this.#received, status: failed ? 'failed' : 'ok' });
    if (failed) {
      this.#counters.failedReads.inc();
      return;
    }
    this.#times.read.observe(ms / 1000);
    this.#sizes.readBytes.observe(numBytes);
    this.#sizes.readBlocks.observe(numBlocks);
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
    failedReads: registry.counter('vllm:nixl_num_failed_transfers_total', 'Loads that failed.'),
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
  const { firstToken, perToken, request, transfer, nixlTransfer } = buckets;
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
    read: time('vllm:nixl_xfer_time', 'Time of a load that succeeded.', nixlTransfer),
    transfer: time('vllm_pd:kv_transfer', 'Time of a load.', transfer),
  };
}

function createSizes(registry: MetricsRegistry, maxModelLen: number) {
  const size = (name: string, help: string) => registry.histogram(name, help, buckets.upTo(maxModelLen));
  return {
    promptTokens: size('vllm:request_prompt_tokens', 'Tokens of a prompt.'),
    generationTokens: size('vllm:request_generation_tokens', 'Tokens of an answer.'),
    maxTokens: size('vllm:request_params_max_tokens', 'max_tokens of a request.'),
    maxGenerationTokens: size(
      'vllm:request_max_num_generation_tokens',
      'Tokens of the longest answer to a prompt.',
    ),
    samples: registry.histogram('vllm:request_params_n', 'n of a request.', buckets.samples),
    readBytes: registry.histogram('vllm:nixl_bytes_transferred', 'Bytes of a load.', buckets.nixlBytes),
    readBlocks: registry.histogram('vllm:nixl_num_descriptors', 'Blocks of a load.', buckets.nixlDescriptors),
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
