// The engine's flags, with vLLM's names: one definition for `serve` and the benchmarks.
import { CLIError } from '@oclif/core/errors';
import { boolean, custom, integer, option, string } from '@oclif/core/flags';
import { defaults, type EngineOptions, given } from './config.js';
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
    options: ['auto', 'cpu', 'onnx'] as const,
    description:
      'What runs the model: the native CPU kernels (auto), or ONNX Runtime on an exported decoder.',
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
  'num-threads': count('Compute threads of one node.', 'all cores', 1, 1024, 'MODEL'),

  'block-size': count('Tokens per KV block.', defaults.blockSize, 1, 1024, 'CACHE'),
  'num-blocks': count(
    'KV blocks of one node, the null block included.',
    defaults.numBlocks,
    2,
    2 ** 24,
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

  'max-num-seqs': count('Requests in one step.', defaults.maxNumSeqs, 1, 65_536, 'SCHEDULER'),
  'max-num-batched-tokens': count(
    'Token budget of one step.',
    defaults.maxNumBatchedTokens,
    1,
    maxInt32,
    'SCHEDULER',
  ),
  'max-waiting': count(
    'Requests that may wait on one node; more are answered with 429.',
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
  'kv-recompute-threshold': count(
    'Fewer tokens than this are computed by P instead of pulled from D.',
    defaults.kvRecomputeThreshold,
    0,
    maxInt32,
    'KV TRANSFER',
  ),
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
};

/** What `engineFlags` parse to; a flag that was not given is absent. */
export interface EngineFlagValues {
  readonly model?: string;
  readonly 'served-model-name'?: string;
  readonly 'max-model-len'?: number;
  readonly seed?: number;
  readonly 'reuse-token-ids'?: boolean;
  readonly backend?: 'auto' | 'cpu' | 'onnx';
  readonly dtype?: 'auto' | 'float32' | 'bfloat16';
  readonly quantization?: 'none' | 'int8';
  readonly 'num-threads'?: number;
  readonly 'block-size'?: number;
  readonly 'num-blocks'?: number;
  readonly 'kv-cache-dtype'?: 'auto' | 'float32' | 'bfloat16';
  readonly 'enable-prefix-caching'?: boolean;
  readonly 'prefix-caching-hash-seed'?: string;
  readonly 'max-num-seqs'?: number;
  readonly 'max-num-batched-tokens'?: number;
  readonly 'max-waiting'?: number;
  readonly 'scheduling-policy'?: 'fcfs' | 'priority';
  readonly 'kv-transfer'?: 'uni' | 'bi';
  readonly 'kv-lookup'?: 'query' | 'ticket';
  readonly 'first-token'?: 'prefill' | 'decode';
  readonly 'kv-recompute-threshold'?: number;
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
    backend: flags.backend,
    kvCacheDtype: flags['kv-cache-dtype'],
    dtype: flags.dtype,
    quantization: flags.quantization,
    numThreads: flags['num-threads'],
    seed: flags.seed,
    reuseTokenIds: flags['reuse-token-ids'],
  });
}

function milliseconds(seconds: number | undefined): number | undefined {
  return seconds === undefined ? undefined : Math.round(seconds * 1000);
}
