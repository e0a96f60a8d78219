// The library's face: what a program that embeds vllm-pd may rely on.
export type { EngineConfig, KvLookup, KvTransferMode, NodeRole } from './config.js';
export { Engine } from './engine/engine.js';
export { completeEngineConfig, defaults, type EngineOptions } from './engine-options.js';
export { type ErrorCode, VllmPdError } from './errors.js';
export { resolveModel } from './model/resolve-model.js';
export type { SamplingParams } from './request.js';
export { startApiServer } from './server/api/api-server.js';
export { type NodeRow, queryCaches } from './server/cache-query-client.js';
export { type Cluster, type ClusterNode, type ClusterOptions, startCluster } from './server/cluster.js';
export { type NodeOptions, type RunningNode, startNode } from './server/node-process.js';
export { type ProxyOptions, type ProxyServer, startProxy } from './server/proxy/proxy.js';
export type { CacheQueryAnswer, KvTransferParams, Ledger, LedgerBin, PrefillStats, Tier } from './wire.js';
