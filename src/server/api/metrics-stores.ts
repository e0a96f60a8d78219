// Metrics of KV beyond the pool: where it came from and went to, what the stores hold, and what happened to it there.
import type { NodeRole } from '../../config.js';
import type { Engine } from '../../engine/engine.js';
import type { MetricsRegistry } from './metrics-registry.js';

const nodeNames: Readonly<Record<NodeRole, { readonly self: string; readonly peer: string }>> = {
  prefill: { self: 'p', peer: 'd' },
  decode: { self: 'd', peer: 'p' },
  both: { self: 'node', peer: 'peer' },
};

export function addStoreMetrics(registry: MetricsRegistry, engine: Engine): void {
  addHopCounters(registry, engine);
  addContents(registry, engine);
  addEvents(registry, engine);
}

function addHopCounters(registry: MetricsRegistry, engine: Engine): void {
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
}

function addContents(registry: MetricsRegistry, engine: Engine): void {
  const sizes = { numBlocks: 'blocks', numBytes: 'bytes', numQueued: 'queued_blocks' } as const;
  for (const [field, name] of Object.entries(sizes) as [keyof typeof sizes, string][]) {
    registry.labelledGauge(`vllm_pd:kv_store_${name}`, `${name} of a KV store now.`, ['tier', 'medium'], () =>
      engine.kvStoreStats().map((store) => [labelsOf(store), store[field]]),
    );
  }
}

function addEvents(registry: MetricsRegistry, engine: Engine): void {
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
