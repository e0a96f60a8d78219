// Real nodes and a proxy on the tiny model, for tests: quick to start, small pools, gone afterwards.
import * as assert from 'uvu/assert';
import type { EngineState } from '../src/engine/stats.js';
import { mergeEngineOptions } from '../src/engine-options.js';
import { type Cluster, type ClusterNode, type ClusterOptions, startCluster } from '../src/server/cluster.js';

export interface TestCluster extends Cluster {
  readonly prefill: readonly ClusterNode[];
  readonly decode: readonly ClusterNode[];
  /** POSTs JSON to the proxy, or to the server at `url`. */
  post(path: string, body: unknown, url?: string): Promise<Response>;
  stateOf(node: ClusterNode): Promise<EngineState>;
  /**
   * Fails unless every living node's pool becomes whole within `limitMs`: all blocks but the null block free, no request,
   * no hold, no load. Notifications that end holds may still be on their way when an answer is complete.
   */
  assertWhole(limitMs?: number): Promise<void>;
}

/** 256 blocks of 16 tokens a node, one thread, nothing too short to be pulled. */
const small = {
  model: 'tiny',
  backend: 'cpu',
  numThreads: 1,
  cache: { numBlocks: 256 },
  kvTransfer: { kvRecomputeThreshold: 16 },
} as const;

export async function withCluster<Result>(
  options: ClusterOptions,
  work: (cluster: TestCluster) => Promise<Result>,
): Promise<Result> {
  const cluster = await startCluster({
    startTimeoutMs: 60_000,
    stopGraceMs: 3000,
    ...options,
    engine: mergeEngineOptions(small, options.engine ?? {}),
  });
  const dead = new Set<ClusterNode>();
  cluster.onNodeDeath((_, node) => dead.add(node));
  const stateOf = async (node: ClusterNode) =>
    (await (await fetch(`${node.url}/state`)).json()) as EngineState;
  try {
    return await work({
      ...cluster,
      prefill: cluster.nodes.filter((node) => node.role === 'prefill'),
      decode: cluster.nodes.filter((node) => node.role !== 'prefill'),
      post: (path, body, url = cluster.proxyUrl) =>
        fetch(`${url}${path}`, { method: 'POST', body: JSON.stringify(body) }),
      stateOf,
      async assertWhole(limitMs = 5000) {
        const living = cluster.nodes.filter((node) => !dead.has(node));
        await Promise.all(living.map((node) => becomesWhole(node, () => stateOf(node), limitMs)));
      },
    });
  } finally {
    await cluster.close();
  }
}

async function becomesWhole(
  node: ClusterNode,
  read: () => Promise<EngineState>,
  limitMs: number,
): Promise<void> {
  const deadlineMs = performance.now() + limitMs;
  for (;;) {
    const { numBlocks, numCachedBlocks: _, ...state } = await read();
    const whole = {
      numFreeBlocks: numBlocks - 1,
      numRunning: 0,
      numWaiting: 0,
      numHolds: 0,
      numPendingLoads: 0,
    };
    const isWhole = Object.entries(whole).every(([key, value]) => Reflect.get(state, key) === value);
    if (isWhole) return;
    if (performance.now() > deadlineMs) assert.equal(state, whole, `pool of the ${node.role} node`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
