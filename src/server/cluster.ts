// Prefill nodes, decode nodes and the proxy on this machine: started together, watched, stopped together.
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import type { NodeRole } from '../config.js';
import { defaults, type EngineOptions, mergeEngineOptions } from '../engine-options.js';
import type { VllmPdError } from '../errors.js';
import { resolveModel } from '../model/resolve-model.js';
import { ClusterNode } from './cluster-node.js';
import { lastWordsMs } from './http.js';
import { type ProxyOptions, type ProxyServer, startProxy } from './proxy/proxy.js';

export type { ClusterNode };

export interface ClusterOptions {
  readonly engine?: EngineOptions;
  /** Prefill nodes, default 1. With none the decode nodes are aggregated ones: they prefill by themselves. */
  readonly prefill?: number;
  /** Decode nodes, default 1. */
  readonly decode?: number;
  /** Laid over `engine` for the nodes of one role. */
  readonly prefillEngine?: EngineOptions;
  readonly decodeEngine?: EngineOptions;
  /** The proxy's, default 127.0.0.1; nodes are on 127.0.0.1 always. */
  readonly host?: string;
  /** The proxy's; default 0 = any free one. */
  readonly port?: number;
  /** The first node's of a role, the others' follow it; default 0 = any free ones. */
  readonly prefillPort?: number;
  readonly decodePort?: number;
  readonly proxy?: Pick<
    ProxyOptions,
    | 'trustKvTransferParams'
    | 'queryTimeoutMs'
    | 'connectTimeoutMs'
    | 'prefillRouting'
    | 'decodeRouting'
    | 'maxWaiting'
  >;
  /** Default 120 000. */
  readonly startTimeoutMs?: number;
  /** Of these a client must have one, of the proxy and of each node; none = no client needs any. */
  readonly apiKeys?: readonly string[] | undefined;
  /** How long turns under way may go on when the cluster is closed; default 5000. */
  readonly drainTimeoutMs?: number | undefined;
  /** Between SIGTERM and SIGKILL when nodes are stopped; default 5000 more than the drain timeout. */
  readonly stopGraceMs?: number;
  /** Aborting it while the cluster starts stops what was started; `startCluster` then rejects. */
  readonly signal?: AbortSignal;
  /** Share, 0–1, of a built-in model that is being made on its first use. */
  readonly onModelProgress?: (fraction: number) => void;
  /** Share, 0–1, of weights that a node packs because nobody has yet. The other nodes wait for it. */
  readonly onPacked?: (fraction: number) => void;
  /** What the nodes log also goes to this process's stderr. Default false. */
  readonly forwardLogs?: boolean;
}

export interface Cluster {
  readonly proxyUrl: string;
  /** Prefill nodes first. */
  readonly nodes: readonly ClusterNode[];
  /** A node that ends by itself is reported; the others go on until `close`. */
  onNodeDeath(listener: (error: VllmPdError, node: ClusterNode) => void): void;
  /** Resolves when every process is gone. Idempotent. */
  close(): Promise<void>;
}

/**
 * Throws what the first failing node or the proxy threw (ADDRESS_IN_USE, BAD_FILE, NODE_UNREACHABLE with its last lines,
 * TIMED_OUT, …); all that had been started is gone by then.
 */
export async function startCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const engine = await withResolvedModel(options);
  const nodes = await startNodes(options, engine);
  const ofRole = (role: 'prefill' | 'other') =>
    nodes.filter((node) => (node.role === 'prefill') === (role === 'prefill')).map((node) => node.url);
  try {
    const proxy = await startProxy({
      maxWaiting: roomOf(engine, nodes.length),
      ...options.proxy,
      host: options.host ?? '127.0.0.1',
      port: options.port ?? 0,
      prefillUrls: ofRole('prefill'),
      decodeUrls: ofRole('other'),
      mode: engine.kvTransfer?.mode ?? defaults.kvTransferMode,
      lookup: engine.kvTransfer?.lookup ?? defaults.kvLookup,
      apiKeys: options.apiKeys,
      firstToken: engine.kvTransfer?.firstToken ?? defaults.firstToken,
    });
    const drainTimeoutMs = options.drainTimeoutMs ?? defaults.drainTimeoutMs;
    let closed: Promise<void> | null = null;
    return {
      proxyUrl: proxy.url,
      nodes,
      onNodeDeath(listener) {
        for (const node of nodes) node.onDeath((error) => listener(error, node));
      },
      close() {
        closed ??= drainAndClose(proxy, nodes, drainTimeoutMs);
        return closed;
      },
    };
  } catch (error) {
    await stopAll(nodes);
    throw error;
  }
}

/** A built-in model is made on first use: once, here, not by every node at the same time. */
async function withResolvedModel(options: ClusterOptions): Promise<EngineOptions> {
  const { engine = {}, prefillEngine, decodeEngine, onModelProgress: onProgress } = options;
  const model = engine.model ?? defaults.model;
  const usesOnnx = [engine, prefillEngine, decodeEngine].some((over) => over?.backend === 'onnx');
  return {
    ...engine,
    model: await resolveModel(model, {
      backend: usesOnnx ? 'onnx' : 'cpu',
      ...(onProgress && { onProgress }),
    }),
    servedModelName: engine.servedModelName ?? model,
    kvTransfer: { ...engine.kvTransfer, key: engine.kvTransfer?.key ?? newKey() },
  };
}

/** Two ports a node: its events, and their replay. A `*` for a port needs no other one. */
function withOwnEventPorts(engine: EngineOptions, nodeIndex: number): EngineOptions {
  const { kvEvents } = engine;
  if (!kvEvents) return engine;
  const shifted = (endpoint: string) =>
    endpoint.replace(
      /^(tcp:.*:)(\d+)$/,
      (_, head: string, port: string) => head + (Number(port) + 2 * nodeIndex),
    );
  const { endpoint, replay_endpoint } = kvEvents;
  return {
    ...engine,
    kvEvents: {
      ...kvEvents,
      endpoint: shifted(endpoint),
      replay_endpoint: replay_endpoint === null ? null : shifted(replay_endpoint),
    },
  };
}

/** Turns that fit into the nodes and their queues: a proxy in front of them refuses no others. */
function roomOf({ scheduler = {} }: EngineOptions, numNodes: number): number {
  const { maxWaiting = defaults.maxWaiting, maxNumSeqs = defaults.maxNumSeqs } = scheduler;
  return numNodes * (maxWaiting + maxNumSeqs);
}

/** Of this start only: what it protects is gone with the nodes. */
function newKey(): string {
  return randomBytes(32).toString('base64url');
}

async function startNodes(options: ClusterOptions, engine: EngineOptions): Promise<ClusterNode[]> {
  const { prefill = 1, decode = 1, forwardLogs = false, apiKeys = [] } = options;
  const drainTimeoutMs = options.drainTimeoutMs ?? defaults.drainTimeoutMs;
  const stopGraceMs = options.stopGraceMs ?? drainTimeoutMs + 5000;
  const start = (role: NodeRole, over: EngineOptions = {}, firstPort = 0) => {
    return (_: unknown, i: number) => {
      const port = firstPort === 0 ? 0 : firstPort + i;
      return new ClusterNode({
        role,
        engine: withOwnEventPorts(
          withOwnFolder(mergeEngineOptions(engine, over), `${role}-${i}`),
          role === 'prefill' ? i : prefill + i,
        ),
        port,
        forwardLogs,
        stopGraceMs,
        apiKeys,
        drainTimeoutMs,
      });
    };
  };
  const decodeRole = prefill === 0 ? 'both' : 'decode';
  options.signal?.throwIfAborted();
  const nodes = [
    ...Array.from({ length: prefill }, start('prefill', options.prefillEngine, options.prefillPort)),
    ...Array.from({ length: decode }, start(decodeRole, options.decodeEngine, options.decodePort)),
  ];
  const abort = () => void stopAll(nodes);
  options.signal?.addEventListener('abort', abort);
  try {
    await Promise.all(
      nodes.map((node) => node.untilReady(options.startTimeoutMs ?? 120_000, options.onPacked)),
    );
    for (const node of nodes) node.introduce(nodes.map(({ sideChannel }) => sideChannel));
    return nodes;
  } catch (error) {
    await stopAll(nodes);
    throw error;
  } finally {
    options.signal?.removeEventListener('abort', abort);
  }
}

/** What a node keeps on disk is its own, and found again by the node of the same role and number after a restart. */
function withOwnFolder(engine: EngineOptions, name: string): EngineOptions {
  const directory = engine.kvStore?.directory;
  if (directory == null) return engine;
  return mergeEngineOptions(engine, { kvStore: { directory: path.join(directory, name) } });
}

/** Turns need their nodes to the end, and the proxy to the last word that the nodes say about those that were cut off. */
async function drainAndClose(
  proxy: ProxyServer,
  nodes: readonly ClusterNode[],
  timeoutMs: number,
): Promise<void> {
  const deadlineMs = performance.now() + timeoutMs;
  await proxy.drain(timeoutMs);
  proxy.expectNodesToLeave();
  // Clients of the nodes themselves have what is left of the time.
  const leftMs = Math.max(0, deadlineMs - performance.now());
  await Promise.all([proxy.drain(leftMs + lastWordsMs).then(() => proxy.close()), stopAll(nodes, leftMs)]);
}

async function stopAll(nodes: readonly ClusterNode[], drainTimeoutMs?: number): Promise<void> {
  await Promise.all(nodes.map((node) => node.stop(drainTimeoutMs)));
}
