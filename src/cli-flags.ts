// The engine's flags, with vLLM's names: one definition for `serve` and the benchmarks.
import { CLIError } from '@oclif/core/errors';
import { boolean, custom, integer, option, string } from '@oclif/core/flags';
import { kvEventsFlag } from './cli-kv-events.js';
import {
  defaults,
  type EngineOptions,
  type EvictionPolicyName,
  evictionPolicyNames,
  given,
  type KvEventsConfig,
  type KvStoreOptions,
} from './config.js';
import { VllmPdError } from './errors.js';

const maxInt32 = 2 ** 31 - 1;

function count(
  description: string,
  shownDefault: number | string,
  min: number,
  max: number,
  helpGroup: string,
) {
  // Not a real default: only what was given on the command line may override a workload's own engine options.
  return integer({ description, min, max, helpGroup, defaultHelp: async () => String(shownDefault) });
}

function text(description: string, shownDefault: string, helpGroup: string) {
  return string({ description, helpGroup, defaultHelp: async () => shownDefault });
}

/** Above 0, at most 1. */
function share(description: string, shownDefault: number, helpGroup: string) {
  return custom<number>({
    parse: async (input) => {
      const value = Number(input);
      if (input.trim() !== '' && value > 0 && value <= 1) return value;
      throw new CLIError(`Expected a number above 0 and at most 1 but received: ${input}`);
    },
  })({ description, helpGroup, defaultHelp: async () => String(shownDefault) });
}

const seconds = custom<number>({
  parse: async (input) => {
    const value = Number(input);
    if (input.trim() !== '' && value > 0 && value <= maxInt32 / 1000) return value;
    throw new CLIError(`Expected a positive number of seconds but received: ${input}`);
  },
});

const maxSeconds = 1e6;

export const nonNegativeSeconds = custom<number>({
  parse: async (input) => {
    const value = Number(input);
    if (input.trim() !== '' && value >= 0 && value <= maxSeconds) return value;
    throw new CLIError(`Expected a number of seconds from 0 on but received: ${input}`);
  },
});

/** The keys given as flags, else those in VLLM_PD_API_KEY. Throws INVALID_ARGUMENT for one that no header can carry. */
export function apiKeysOf(given: readonly string[] | undefined): readonly string[] {
  const keys = given ?? (process.env.VLLM_PD_API_KEY ?? '').split(',').filter((key) => key !== '');
  if (keys.every((key) => /^[\x21-\x2b\x2d-\x7e]+$/.test(key))) return keys;
  const message =
    'Expected API keys of printable characters without spaces and commas but received another one.';
  throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'api-key' });
}

const threshold = custom<number | 'auto'>({
  parse: async (input) => {
    if (input === 'auto') return input;
    const value = Number(input);
    if (/^\d+$/.test(input) && value <= maxInt32) return value;
    throw new CLIError(`Expected a whole number of tokens or auto but received: ${input}`);
  },
});

const units: Readonly<Record<string, number>> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

const size = custom<number>({
  parse: async (input) => {
    const [, value, unit = ''] = /^(\d+(?:\.\d+)?)(?:([kmgt])(?:i?b)?|b)?$/i.exec(input.trim()) ?? [];
    const bytes = Math.floor(Number(value) * (units[unit.toLowerCase()] ?? Number.NaN));
    if (bytes > 0 && bytes <= Number.MAX_SAFE_INTEGER) return bytes;
    throw new CLIError(`Expected a size such as 512MiB or 10GiB but received: ${input}`);
  },
});

const storeGroup = { helpGroup: 'KV STORES' };

const policy = (tier: string) =>
  option({
    options: evictionPolicyNames,
    description: `Which blocks leave a full ${tier} first. session: the tail of the conversation idle for longest.`,
    defaultHelp: async () => defaults.kvStorePolicy,
    ...storeGroup,
  })();

const storeFlags = {
  'kv-store-memory': size({
    description: 'Host memory of each node for blocks that leave its pool, such as 512MiB.',
    helpValue: 'SIZE',
    ...storeGroup,
  }),
  'kv-store-dir': string({
    description:
      'Directory on the node’s disk for its blocks; each node of a cluster takes a folder of its own in it.',
    helpValue: 'DIR',
    ...storeGroup,
  }),
  'kv-store-dir-capacity': size({
    description: 'Most that --kv-store-dir may hold for one node; without limit if absent.',
    helpValue: 'SIZE',
    ...storeGroup,
  }),
  'kv-store-policy': policy('memory or directory of a node'),
  'kv-store-ttl': seconds({
    description:
      'Blocks in the memory or directory of a node are dropped this many seconds after they were written.',
    ...storeGroup,
  }),
  'kv-shared-store': string({
    description: 'Store that all nodes reach: a directory on a shared file system, or redis://host:port.',
    helpValue: 'DIR|URL',
    ...storeGroup,
  }),
  'kv-shared-store-capacity': size({
    description: 'Most that the shared store may hold; without limit if absent.',
    helpValue: 'SIZE',
    ...storeGroup,
  }),
  'kv-shared-store-policy': policy('shared store'),
  'kv-shared-store-ttl': seconds({
    description: 'Blocks in the shared store are dropped this many seconds after they were written.',
    ...storeGroup,
  }),
  'hop-planner': boolean({
    description:
      'Read what the shared store has from there and never from a peer (on unless switched off, which shows what it saves).',
    allowNo: true,
    ...storeGroup,
  }),
};

export const engineFlags = {
  model: text('A built-in model (`default`, `tiny`) or a Hugging Face folder.', defaults.model, 'MODEL'),
  'served-model-name': string({
    description: 'The name that clients ask for; the value of --model if absent.',
    helpGroup: 'MODEL',
  }),
  'max-model-len': count(
    'Longest prompt plus answer, in tokens.',
    defaults.maxModelLen,
    1,
    maxInt32,
    'MODEL',
  ),
  seed: count('Seed of sampling for requests that bring none.', defaults.seed, 0, maxInt32, 'MODEL'),
  backend: option({
    options: ['auto', 'cpu', 'cuda', 'onnx'] as const,
    description:
      'What runs the model: the native kernels on the CPU or on a GPU (auto: where one answers), or ONNX Runtime on an exported decoder.',
    defaultHelp: async () => defaults.backend,
    helpGroup: 'MODEL',
  })(),
  dtype: option({
    options: ['auto', 'float32', 'bfloat16'] as const,
    description: 'What weights are kept as: bfloat16 where the CPU has AVX-512 or AMX (auto), or as said.',
    defaultHelp: async () => defaults.dtype,
    helpGroup: 'MODEL',
  })(),
  quantization: option({
    options: ['none', 'int8'] as const,
    description: 'int8: weights quantised by output channel, activations by token.',
    defaultHelp: async () => defaults.quantization,
    helpGroup: 'MODEL',
  })(),
  'batch-invariant': boolean({
    description:
      'On a GPU: products whose bits depend on no other request (on unless switched off); cuBLASLt otherwise.',
    allowNo: true,
    helpGroup: 'MODEL',
  }),
  'num-threads': count('Compute threads of one node.', 'all cores', 1, 1024, 'MODEL'),

  'block-size': count('Tokens per KV block.', defaults.blockSize, 1, 1024, 'CACHE'),
  'num-blocks': count(
    'KV blocks of one node, the null block included.',
    defaults.numBlocks,
    2,
    2 ** 24,
    'CACHE',
  ),
  'gpu-memory-utilization': share(
    "The share of a GPU's memory that one node may fill; sizes its pool unless --num-blocks does.",
    defaults.gpuMemoryUtilization,
    'CACHE',
  ),
  'kv-cache-dtype': option({
    options: ['auto', 'float32', 'bfloat16'] as const,
    description: 'What K and V are kept as; auto: bfloat16 where the chip computes with it, else float32.',
    defaultHelp: async () => defaults.kvCacheDtype,
    helpGroup: 'CACHE',
  })(),
  'enable-prefix-caching': boolean({
    description: 'Keep KV of finished requests for prompts that begin alike (on unless switched off).',
    allowNo: true,
    helpGroup: 'CACHE',
  }),
  'prefix-caching-hash-seed': text(
    'Seed of the block hashes; the same on all nodes that exchange KV.',
    defaults.hashSeed,
    'CACHE',
  ),

  'kv-events-config': kvEventsFlag(),

  'max-num-seqs': count('Requests in one step.', defaults.maxNumSeqs, 1, 65_536, 'SCHEDULER'),
  'max-num-batched-tokens': count(
    'Token budget of one step.',
    defaults.maxNumBatchedTokens,
    1,
    maxInt32,
    'SCHEDULER',
  ),
  'max-waiting': count(
    'Requests that may wait on one node, or on a proxy alone for their answer to begin; more are answered with 429.',
    defaults.maxWaiting,
    1,
    maxInt32,
    'SCHEDULER',
  ),
  'scheduling-policy': option({
    options: ['fcfs', 'priority'] as const,
    description: 'Who goes first: who came first, or whose `priority` is lower.',
    defaultHelp: async () => defaults.schedulingPolicy,
    helpGroup: 'SCHEDULER',
  })(),

  'kv-transfer': option({
    options: ['uni', 'bi'] as const,
    description: 'uni: KV moves P→D only. bi: P also pulls from D what D already holds.',
    defaultHelp: async () => defaults.kvTransferMode,
    helpGroup: 'KV TRANSFER',
  })(),
  'kv-lookup': option({
    options: ['query', 'ticket'] as const,
    description: "How P learns what D holds: a cache query each turn, or vLLM's ticket of the turn before.",
    defaultHelp: async () => defaults.kvLookup,
    helpGroup: 'KV TRANSFER',
  })(),
  'reuse-token-ids': boolean({
    description:
      'Encode an answer that comes back in a chat as the token ids that were generated, where its text is unchanged, ' +
      'so that its KV is found even if the tokenizer would split it otherwise.',
    helpGroup: 'KV TRANSFER',
  }),
  'first-token': option({
    options: ['prefill', 'decode'] as const,
    description: "Whose first token clients get: P's at once, or D's behind the hand-over of the KV.",
    defaultHelp: async () => defaults.firstToken,
    helpGroup: 'KV TRANSFER',
  })(),
  'kv-recompute-threshold': threshold({
    description:
      'Fewer tokens than this are computed by P instead of pulled from D or read from a store. auto: whatever was ' +
      'measured to cost less.',
    defaultHelp: async () => String(defaults.kvRecomputeThreshold),
    helpGroup: 'KV TRANSFER',
    helpValue: 'N|auto',
  }),
  'kv-lease-duration': seconds({
    description: 'How long blocks are held for a peer that was told about them, in seconds.',
    defaultHelp: async () => String(defaults.kvLeaseDurationMs / 1000),
    helpGroup: 'KV TRANSFER',
  }),
  'decoder-kv-blocks-ttl': seconds({
    description: "How long D holds a finished turn's blocks in ticket mode, in seconds.",
    defaultHelp: async () => String(defaults.decoderKvBlocksTtlMs / 1000),
    helpGroup: 'KV TRANSFER',
  }),
  'kv-agent': option({
    options: ['auto', 'shm', 'tcp'] as const,
    description: "How a peer's blocks are read: shared memory on one host, TCP otherwise.",
    defaultHelp: async () => defaults.agent,
    helpGroup: 'KV TRANSFER',
  })(),
  'kv-load-failure-policy': option({
    options: ['recompute', 'fail'] as const,
    description: 'What becomes of a request whose blocks did not arrive.',
    defaultHelp: async () => defaults.kvLoadFailurePolicy,
    helpGroup: 'KV TRANSFER',
  })(),
  ...storeFlags,
};

/** What `storeFlags` parse to. Sizes in bytes, times in seconds. */
interface StoreFlagValues {
  readonly 'kv-store-memory'?: number;
  readonly 'kv-store-dir'?: string;
  readonly 'kv-store-dir-capacity'?: number;
  readonly 'kv-store-policy'?: EvictionPolicyName;
  readonly 'kv-store-ttl'?: number;
  readonly 'kv-shared-store'?: string;
  readonly 'kv-shared-store-capacity'?: number;
  readonly 'kv-shared-store-policy'?: EvictionPolicyName;
  readonly 'kv-shared-store-ttl'?: number;
  readonly 'hop-planner'?: boolean;
}

/** What `engineFlags` parse to; a flag that was not given is absent. */
export interface EngineFlagValues extends StoreFlagValues {
  readonly model?: string;
  readonly 'served-model-name'?: string;
  readonly 'max-model-len'?: number;
  readonly seed?: number;
  readonly 'reuse-token-ids'?: boolean;
  readonly backend?: 'auto' | 'cpu' | 'cuda' | 'onnx';
  readonly 'batch-invariant'?: boolean;
  readonly 'gpu-memory-utilization'?: number;
  readonly dtype?: 'auto' | 'float32' | 'bfloat16';
  readonly quantization?: 'none' | 'int8';
  readonly 'num-threads'?: number;
  readonly 'block-size'?: number;
  readonly 'num-blocks'?: number;
  readonly 'kv-cache-dtype'?: 'auto' | 'float32' | 'bfloat16';
  readonly 'enable-prefix-caching'?: boolean;
  readonly 'prefix-caching-hash-seed'?: string;
  readonly 'kv-events-config'?: KvEventsConfig | null;
  readonly 'max-num-seqs'?: number;
  readonly 'max-num-batched-tokens'?: number;
  readonly 'max-waiting'?: number;
  readonly 'scheduling-policy'?: 'fcfs' | 'priority';
  readonly 'kv-transfer'?: 'uni' | 'bi';
  readonly 'kv-lookup'?: 'query' | 'ticket';
  readonly 'first-token'?: 'prefill' | 'decode';
  readonly 'kv-recompute-threshold'?: number | 'auto';
  /** Seconds. */
  readonly 'kv-lease-duration'?: number;
  /** Seconds. */
  readonly 'decoder-kv-blocks-ttl'?: number;
  readonly 'kv-agent'?: 'auto' | 'shm' | 'tcp';
  readonly 'kv-load-failure-policy'?: 'recompute' | 'fail';
}

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
      agent: flags['kv-agent'],
      kvLoadFailurePolicy: flags['kv-load-failure-policy'],
    }),
    kvStore: unlessEmpty<KvStoreOptions>(storeOptions(flags)),
    backend: flags.backend,
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

function storeOptions(flags: StoreFlagValues): {
  [K in keyof KvStoreOptions]: KvStoreOptions[K] | undefined;
} {
  return {
    memoryBytes: flags['kv-store-memory'],
    directory: flags['kv-store-dir'],
    shared: flags['kv-shared-store'],
    hopPlanner: flags['hop-planner'],
    dedicatedTier: unlessEmpty({
      capacityBytes: flags['kv-store-dir-capacity'],
      ttlMs: milliseconds(flags['kv-store-ttl']),
      policy: flags['kv-store-policy'],
    }),
    sharedTier: unlessEmpty({
      capacityBytes: flags['kv-shared-store-capacity'],
      ttlMs: milliseconds(flags['kv-shared-store-ttl']),
      policy: flags['kv-shared-store-policy'],
    }),
  };
}

/** As `given`; undefined when nothing was. */
function unlessEmpty<T extends object>(
  choices: { readonly [K in keyof T]: T[K] | undefined },
): T | undefined {
  const chosen = given<T>(choices);
  return Object.keys(chosen).length === 0 ? undefined : chosen;
}

function milliseconds(seconds: number | undefined): number | undefined {
  return seconds === undefined ? undefined : Math.round(seconds * 1000);
}
