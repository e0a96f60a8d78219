// The engine's flags, with vLLM's names: one definition for `serve` and the benchmarks.
import type { InferredFlags } from '@oclif/core/interfaces';
import { type EngineOptions, given } from '../engine-options.js';
import { cacheFlags } from './cache-flags.js';
import { milliseconds } from './flag-types.js';
import { kvStoreFlags, kvStoreOptions } from './kv-store-flags.js';
import { kvTransferFlags } from './kv-transfer-flags.js';
import { modelFlags } from './model-flags.js';
import { schedulerFlags } from './scheduler-flags.js';

export const engineFlags = {
  ...modelFlags,
  ...cacheFlags,
  ...schedulerFlags,
  ...kvTransferFlags,
  ...kvStoreFlags,
};

type EngineFlagValues = Partial<InferredFlags<typeof engineFlags>>;

/** Only what was given on the command line, so that it can be laid over other choices. */
export function engineOptions(flags: EngineFlagValues): EngineOptions {
  return given<EngineOptions>({
    model: flags.model,
    servedModelName: flags['served-model-name'],
    cache: given({
      blockSize: flags['block-size'],
      numBlocks: flags['num-blocks'],
      enablePrefixCaching: flags['enable-prefix-caching'],
      hashSeed: flags['prefix-caching-hash-seed'],
    }),
    scheduler: given({
      maxNumSeqs: flags['max-num-seqs'],
      maxNumBatchedTokens: flags['max-num-batched-tokens'],
      maxModelLen: flags['max-model-len'],
      maxWaiting: flags['max-waiting'],
      policy: flags['scheduling-policy'],
    }),
    kvTransfer: given({
      mode: flags['kv-transfer'],
      lookup: flags['kv-lookup'],
      firstToken: flags['first-token'],
      kvRecomputeThreshold: flags['kv-recompute-threshold'],
      kvLeaseDurationMs: milliseconds(flags['kv-lease-duration']),
      decoderKvBlocksTtlMs: milliseconds(flags['decoder-kv-blocks-ttl']),
      kvReadTimeoutMs: milliseconds(flags['kv-read-timeout']),
      kvPeerTimeoutMs: milliseconds(flags['kv-peer-timeout']),
      agent: flags['kv-agent'],
      kvLoadFailurePolicy: flags['kv-load-failure-policy'],
    }),
    kvStore: kvStoreOptions(flags),
    backend: flags.backend,
    onnxFile: flags['onnx-file'],
    chatTemplate: flags['chat-template'],
    generationConfig: flags['generation-config'],
    overrideGenerationConfig: flags['override-generation-config'],
    kvCacheDtype: flags['kv-cache-dtype'],
    dtype: flags.dtype,
    quantization: flags.quantization,
    gpuMemoryUtilization: flags['gpu-memory-utilization'],
    batchInvariant: flags['batch-invariant'],
    numThreads: flags['num-threads'],
    seed: flags.seed,
    reuseTokenIds: flags['reuse-token-ids'],
    kvEvents: flags['kv-events-config'],
  });
}
