// Engine options as the flags of `vllm-pd serve`, and as its environment: how a cluster tells its node processes what to be.
import type { EngineOptions } from '../engine-options.js';

/** The inverse of the command line's parsing; what is absent is left to the defaults. */
export function engineArgs(options: EngineOptions): string[] {
  const { cache = {}, scheduler = {}, kvTransfer = {}, kvStore = {} } = options;
  const { dedicatedTier = {}, sharedTier = {} } = kvStore;
  const flags: Readonly<Record<string, string | number | undefined>> = {
    model: options.model,
    'served-model-name': options.servedModelName,
    backend: options.backend,
    'onnx-file': options.onnxFile,
    'chat-template': options.chatTemplate,
    'generation-config': options.generationConfig,
    'override-generation-config':
      options.overrideGenerationConfig && JSON.stringify(options.overrideGenerationConfig),
    dtype: options.dtype,
    quantization: options.quantization,
    'num-threads': options.numThreads,
    seed: options.seed,
    'block-size': cache.blockSize,
    'num-blocks': cache.numBlocks,
    'gpu-memory-utilization': options.gpuMemoryUtilization,
    'kv-events-config': options.kvEvents
      ? JSON.stringify({ enable_kv_cache_events: true, ...options.kvEvents })
      : undefined,
    'kv-cache-dtype': options.kvCacheDtype,
    'prefix-caching-hash-seed': cache.hashSeed,
    'max-num-seqs': scheduler.maxNumSeqs,
    'max-num-batched-tokens': scheduler.maxNumBatchedTokens,
    'max-model-len': scheduler.maxModelLen,
    'max-waiting': scheduler.maxWaiting,
    'scheduling-policy': scheduler.policy,
    'kv-transfer': kvTransfer.mode,
    'kv-lookup': kvTransfer.lookup,
    'first-token': kvTransfer.firstToken,
    'kv-recompute-threshold': kvTransfer.kvRecomputeThreshold,
    'kv-lease-duration': seconds(kvTransfer.kvLeaseDurationMs),
    'decoder-kv-blocks-ttl': seconds(kvTransfer.decoderKvBlocksTtlMs),
    'kv-read-timeout': seconds(kvTransfer.kvReadTimeoutMs),
    'kv-peer-timeout': seconds(kvTransfer.kvPeerTimeoutMs),
    'kv-agent': kvTransfer.agent,
    'kv-load-failure-policy': kvTransfer.kvLoadFailurePolicy,
    'kv-store-memory': kvStore.memoryBytes ?? undefined,
    'kv-store-dir': kvStore.directory ?? undefined,
    'kv-store-dir-capacity': dedicatedTier.capacityBytes ?? undefined,
    'kv-store-policy': dedicatedTier.policy,
    'kv-store-ttl': seconds(dedicatedTier.ttlMs ?? undefined),
    'kv-shared-store-capacity': sharedTier.capacityBytes ?? undefined,
    'kv-shared-store-policy': sharedTier.policy,
    'kv-shared-store-ttl': seconds(sharedTier.ttlMs ?? undefined),
    'side-channel-host': kvTransfer.sideChannelHost,
    'side-channel-port': kvTransfer.sideChannelPort,
  };
  const args = Object.entries(flags).flatMap(([name, value]) =>
    // In one word, so that a value may begin with a dash.
    value === undefined ? [] : [`--${name}=${value}`],
  );
  if (options.reuseTokenIds) args.push('--reuse-token-ids');
  if (options.batchInvariant === true) args.push('--batch-invariant');
  if (options.batchInvariant === false) args.push('--no-batch-invariant');
  if (cache.enablePrefixCaching === true) args.push('--enable-prefix-caching');
  if (cache.enablePrefixCaching === false) args.push('--no-enable-prefix-caching');
  if (kvStore.hopPlanner === true) args.push('--hop-planner');
  if (kvStore.hopPlanner === false) args.push('--no-hop-planner');
  return args;
}

/** What may be secret, an address with a password included: everybody on this machine can read command lines. */
export function engineEnv({
  kvTransfer = {},
  kvStore = {},
}: EngineOptions): Readonly<Record<string, string>> {
  // Empty ones hide what this process was given for itself.
  return {
    VLLM_PD_KV_TRANSFER_KEY: kvTransfer.key ?? '',
    VLLM_PD_KV_SHARED_STORE: kvStore.shared ?? '',
  };
}

function seconds(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : ms / 1000;
}
