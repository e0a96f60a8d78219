// The systems that a run is played on: fresh nodes of its own in each mode, or a proxy that runs already.
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { EngineConfig, KvStoreConfig, KvTransferMode, RoutingPolicy } from '../config.js';
import {
  completeEngineConfig,
  completeKvStore,
  defaults,
  type EngineOptions,
  given,
  mergeEngineOptions,
} from '../engine-options.js';
import { VllmPdError } from '../errors.js';
import type { ClusterOptions } from '../server/cluster.js';
import { BenchClient } from './client.js';
import type { Conversation } from './conversation.js';
import { hidePasswords } from './hide-passwords.js';
import { listNodes, parseMetric } from './node-probe.js';
import type { RunConfig } from './run-info.js';
import type { RunTarget } from './runner.js';
import type { WorkloadEngine } from './workload.js';

export interface Target extends RunTarget {
  /** What a node that ended by itself said; null while all live. */
  death(): string | null;
  close(): Promise<void>;
}

export interface TargetOptions {
  readonly timeoutMs: number;
  readonly maxConnections: number;
  readonly signal: AbortSignal;
  /** Share, 0–1, of weights that are being packed, as on their first use. */
  readonly onPacked?: (fraction: number) => void;
}

/** How many nodes of its own a run has, one of each role unless said otherwise, and who plays a turn. */
export interface BenchNodes {
  readonly prefill?: number;
  readonly decode?: number;
  readonly prefillRouting?: RoutingPolicy;
  readonly decodeRouting?: RoutingPolicy;
}

/** How nodes of their own are set up: the workload's settings with the flags laid over them. */
export interface NodeSettings {
  readonly prefill: EngineOptions;
  readonly decode: EngineOptions;
}

export function nodeSettings(workload: WorkloadEngine, flags: EngineOptions): NodeSettings {
  const settings = (pool: { readonly num_blocks?: number | undefined }): EngineOptions =>
    mergeEngineOptions(
      {
        cache: given({ numBlocks: pool.num_blocks, blockSize: workload.block_size }),
        scheduler: given({
          maxModelLen: workload.max_model_len,
          maxNumBatchedTokens: workload.max_num_batched_tokens,
        }),
        kvTransfer: given({ kvRecomputeThreshold: workload.kv_recompute_threshold }),
        kvStore: given({ memoryBytes: workload.kv_store_memory, shared: workload.kv_shared_store }),
        ...given({ dtype: workload.dtype, quantization: workload.quantization }),
      },
      flags,
    );
  return { prefill: settings(workload.prefill), decode: settings(workload.decode) };
}

/** The settings with every default filled in. */
export function completeSettings({ prefill, decode }: NodeSettings): {
  readonly prefill: EngineConfig;
  readonly decode: EngineConfig;
} {
  const complete = (options: EngineOptions, role: 'prefill' | 'decode') =>
    completeEngineConfig(options, { modelPath: '', engineId: '', role });
  return { prefill: complete(prefill, 'prefill'), decode: complete(decode, 'decode') };
}

/** Tokens of prompt and answer that fit on either node. */
export function roomFor(settings: NodeSettings): number {
  const { prefill, decode } = completeSettings(settings);
  // Block 0 holds nothing.
  const pools = [prefill, decode].map(({ cache }) => (cache.numBlocks - 1) * cache.blockSize);
  return Math.min(prefill.scheduler.maxModelLen, ...pools);
}

export function runConfig(settings: NodeSettings, nodes: BenchNodes): RunConfig {
  const { prefill, decode } = completeSettings(settings);
  return {
    model: prefill.servedModelName,
    block_size: prefill.cache.blockSize,
    num_prefill_blocks: prefill.cache.numBlocks,
    num_decode_blocks: decode.cache.numBlocks,
    ...nodesConfig(nodes),
    max_model_len: prefill.scheduler.maxModelLen,
    max_num_seqs: prefill.scheduler.maxNumSeqs,
    max_num_batched_tokens: prefill.scheduler.maxNumBatchedTokens,
    enable_prefix_caching: prefill.cache.enablePrefixCaching,
    kv_lookup: prefill.kvTransfer.lookup,
    first_token: prefill.kvTransfer.firstToken,
    kv_recompute_threshold: prefill.kvTransfer.kvRecomputeThreshold,
    ...(usesStores(prefill.kvStore) && { kv_store: withoutPassword(prefill.kvStore) }),
    backend: prefill.backend,
    ...(prefill.onnxFile !== null && { onnx_file: prefill.onnxFile }),
    kv_cache_dtype: prefill.kvCacheDtype,
    dtype: prefill.dtype,
    quantization: prefill.quantization,
    ...(prefill.backend === 'cuda' && { batch_invariant: prefill.cuda.batchInvariant }),
    num_threads: prefill.numThreads,
  };
}

function withoutPassword(kvStore: KvStoreConfig): KvStoreConfig {
  return { ...kvStore, shared: kvStore.shared && hidePasswords(kvStore.shared) };
}

/** Empty for one node of each role. */
function nodesConfig({ prefill = 1, decode = 1, prefillRouting, decodeRouting }: BenchNodes) {
  if (prefill === 1 && decode === 1) return {};
  return {
    num_prefill_nodes: prefill,
    num_decode_nodes: decode,
    prefill_routing: prefillRouting ?? defaults.routing,
    decode_routing: decodeRouting ?? defaults.routing,
  };
}

export function usesStores({ memoryBytes, directory, shared }: KvStoreConfig): boolean {
  return memoryBytes !== null || directory !== null || shared !== null;
}

/** A shared store of its own for one system; `remove` when that is gone. */
function withFreshStore(settings: NodeSettings): NodeSettings & { readonly remove: () => void } {
  const isTemporary = settings.prefill.kvStore?.shared === 'temporary';
  const directory = isTemporary ? mkdtempSync(path.join(tmpdir(), 'vllm-pd-bench-store-')) : null;
  const stores = [settings.prefill, settings.decode].map((node) => completeKvStore(node.kvStore));
  // Blocks of another hash seed are other blocks: nothing of an earlier run or of the other mode is found.
  const hashSeed = `${settings.prefill.cache?.hashSeed ?? defaults.hashSeed} ${randomUUID()}`;
  const over: EngineOptions = {
    ...(stores.some(usesStores) && { cache: { hashSeed } }),
    ...(directory !== null && { kvStore: { shared: directory } }),
  };
  return {
    prefill: mergeEngineOptions(settings.prefill, over),
    decode: mergeEngineOptions(settings.decode, over),
    remove: () => {
      if (directory !== null) rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** Starts prefill and decode nodes and their proxy. */
export async function startTarget(
  mode: KvTransferMode,
  configured: NodeSettings,
  nodes: BenchNodes,
  options: TargetOptions,
): Promise<Target> {
  const settings = withFreshStore(configured);
  const { signal, onPacked } = options;
  const { startCluster } = await import('../server/cluster.js');
  const inMode = (node: EngineOptions) => mergeEngineOptions(node, { kvTransfer: { mode } });
  const { prefill = 1, decode = 1, ...routing } = nodes;
  const clusterOptions: ClusterOptions = {
    prefill,
    decode,
    // Each node has a cache of its own: what one leaves to the default must not come from the other.
    engine: inMode({ ...settings.prefill, cache: {} }),
    prefillEngine: given({ cache: settings.prefill.cache }),
    decodeEngine: given({ cache: settings.decode.cache }),
    // A query that is given up on a busy machine would be measured as a miss.
    proxy: { queryTimeoutMs: 30_000, connectTimeoutMs: 10_000, ...routing },
  };
  const cluster = await startCluster({ ...clusterOptions, signal, ...(onPacked && { onPacked }) }).catch(
    (error: unknown) => {
      settings.remove();
      throw error;
    },
  );
  let death: string | null = null;
  cluster.onNodeDeath((error) => {
    death ??= error.message;
  });
  const client = createClient(cluster.proxyUrl, options);
  const close = async () => {
    await client.close();
    await cluster.close();
    settings.remove();
  };
  try {
    return { mode, client, model: await servedModel(client), death: () => death, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A running proxy. Its mode is found out; INVALID_ARGUMENT when `mode` claims another one. */
export async function connectTarget(
  url: string,
  mode: KvTransferMode | null,
  options: TargetOptions,
): Promise<Target> {
  const client = createClient(url, options);
  try {
    await assertProxy(client);
    const model = await servedModel(client);
    const found = await detectMode(client, model);
    if (mode !== null && mode !== found) {
      const message = `Expected a proxy in mode ${mode} at ${client.url} but it runs in mode ${found}.`;
      throw new VllmPdError('INVALID_ARGUMENT', message, {
        param: 'mode',
        suggestions: ['Leave --mode away with --url.'],
      });
    }
    return { mode: found, client, model, death: () => null, close: () => client.close() };
  } catch (error) {
    await client.close();
    throw error;
  }
}

async function assertProxy(client: BenchClient): Promise<void> {
  try {
    await listNodes(client);
  } catch (error) {
    if (!(error instanceof VllmPdError) || error.code !== 'NOT_FOUND') throw error;
    throw new VllmPdError(
      'INVALID_ARGUMENT',
      `Expected a proxy of vllm-pd at ${client.url} but what answers there has no /nodes: a single node, or another program.`,
      { param: 'url', cause: error },
    );
  }
}

const probe: Conversation = {
  id: 'MODE_PROBE',
  turns: [{ messages: [{ role: 'user', content: ' which mode is this' }], numOutputTokens: 1 }],
};

/** A proxy in mode bi looks up every turn on the decode node, and counts that; one in mode uni never does. */
async function detectMode(client: BenchClient, model: string): Promise<KvTransferMode> {
  const lookups = async () =>
    parseMetric(await client.getText('/metrics'), 'vllm_pd:proxy_lookups_total').reduce(
      (sum, { value }) => sum + value,
      0,
    );
  const before = await lookups();
  const [turn] = probe.turns;
  await client.chat({
    model,
    conversationId: probe.id,
    messages: turn!.messages,
    numOutputTokens: turn!.numOutputTokens,
    temperature: 0,
  });
  return (await lookups()) > before ? 'bi' : 'uni';
}

function createClient(url: string, { timeoutMs, maxConnections, signal }: TargetOptions): BenchClient {
  return new BenchClient(url, { timeoutMs, signal, connections: maxConnections });
}

async function servedModel(client: BenchClient): Promise<string> {
  const [model] = await client.modelIds();
  if (model !== undefined) return model;
  throw new VllmPdError('NOT_FOUND', `Expected a model at ${client.url}/v1/models but it serves none.`);
}
