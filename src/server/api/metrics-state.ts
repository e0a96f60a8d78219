// Metrics that are read from the engine whenever somebody scrapes: its queues and pool, its caches, its transfers.
import type { NodeRole } from '../../config.js';
import type { Engine } from '../../engine/engine.js';
import type { MetricsRegistry } from './metrics-registry.js';

/** Which way the blocks go that a node of this role sends, and those that it receives. */
export const directions: Readonly<Record<NodeRole, { readonly sent: string; readonly received: string }>> = {
  prefill: { sent: 'p_to_d', received: 'd_to_p' },
  decode: { sent: 'd_to_p', received: 'p_to_d' },
  both: { sent: 'peer_to_peer', received: 'peer_to_peer' },
};

export function addStateMetrics(
  registry: MetricsRegistry,
  engine: Engine,
  numWaitingForRemoteKvs: () => number,
): void {
  addGauges(registry, engine, numWaitingForRemoteKvs);
  addPrefixCounters(registry, engine);
  addTransferCounters(registry, engine);
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

function addPrefixCounters(registry: MetricsRegistry, engine: Engine): void {
  const prefix = () => engine.prefixCacheStats();
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
}

function addTransferCounters(registry: MetricsRegistry, engine: Engine): void {
  const { sent, received } = directions[engine.config.kvTransfer.role];
  const transfer = () => engine.kvTransferStats();
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
  registry.readCounter('vllm:nixl_num_kv_expired_reqs_total', 'Holds that ended by expiry.', () => {
    return transfer().numExpiredHolds;
  });
  registry.readCounter('vllm_pd:kv_holds_expired_total', 'Holds that ended by expiry.', () => {
    return transfer().numExpiredHolds;
  });
}
