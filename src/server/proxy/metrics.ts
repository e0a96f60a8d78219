// What the proxy reports about itself: how long each hop took, how often one failed.
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { RoutingPolicy } from '../../config.js';

/** `decode_first_byte` ends when D's answer begins, `decode` when it is complete. */
export type Hop = 'query' | 'prefill' | 'decode_first_byte' | 'decode';

/** Why a node was chosen. `only`: no other is healthy. `home`: its conversation was there. `turn`: whose turn it was. */
export type RoutingReason = 'only' | 'home' | 'prefix' | 'load' | 'turn';

const hopSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];

export class ProxyMetrics {
  readonly registry = new Registry();
  readonly #requests = new Counter({
    name: 'vllm_pd:proxy_requests_total',
    help: 'Turns that were answered, by endpoint and status.',
    labelNames: ['endpoint', 'code'],
    registers: [this.registry],
  });
  readonly #running = new Gauge({
    name: 'vllm_pd:proxy_requests_running',
    help: 'Turns under way.',
    registers: [this.registry],
  });
  readonly #hops = new Histogram({
    name: 'vllm_pd:proxy_hop_seconds',
    help: 'Time that one hop of a turn took, as seen by the proxy.',
    labelNames: ['hop', 'node'],
    buckets: hopSeconds,
    registers: [this.registry],
  });
  readonly #failures = new Counter({
    name: 'vllm_pd:proxy_hop_failures_total',
    help: 'Hops that failed and that the turn went on without, or on another node.',
    labelNames: ['hop', 'node'],
    registers: [this.registry],
  });
  readonly #lookups = new Counter({
    name: 'vllm_pd:proxy_lookups_total',
    help: 'Whether P could be told about blocks on D: found, nothing there, of a history that has changed, not asked since nothing can be there, or no answer.',
    labelNames: ['result'],
    registers: [this.registry],
  });
  readonly #routed = new Counter({
    name: 'vllm_pd:proxy_routing_total',
    help: 'Turns routed to a node, by the policy of its role and by what decided.',
    labelNames: ['role', 'policy', 'reason', 'node'],
    registers: [this.registry],
  });

  turnStarted(): void {
    this.#running.inc();
  }

  turnEnded(endpoint: string, code: number): void {
    this.#running.dec();
    this.#requests.inc({ endpoint, code: String(code) });
  }

  hop(hop: Hop, node: string, ms: number): void {
    this.#hops.observe({ hop, node }, ms / 1000);
  }

  hopFailed(hop: Hop, node: string): void {
    this.#failures.inc({ hop, node });
  }

  routed(role: 'prefill' | 'decode', policy: RoutingPolicy, reason: RoutingReason, node: string): void {
    this.#routed.inc({ role, policy, reason, node });
  }

  lookup(result: 'found' | 'nothing' | 'changed' | 'not_asked' | 'failed'): void {
    this.#lookups.inc({ result });
  }
}
