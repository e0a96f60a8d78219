// Checks `kv_transfer_params` where they enter, and says what a request with them asks of this node.
import { z } from 'zod';
import { VllmPdError } from '../errors.js';
import type { RemoteBlocks } from '../outputs.js';
import { byBin, type KvTransferParams, kvHops, ledgerBins, type PrefillStats } from '../wire.js';

const maxInt32 = 2 ** 31 - 1;
/** A million tokens at the default block size. */
const maxRemoteBlocks = 65_536;
/** Longer than any duration that is meant: about 31 years. */
const maxDurationMs = 1e12;

const count = z.int().min(0).max(maxInt32);
const measure = z.number().min(0).max(Number.MAX_SAFE_INTEGER);
const identifier = z.string().min(1).max(512);

const ledger = z.strictObject(byBin(() => count));

const prefillStats = z
  .object({
    num_prompt_tokens: count,
    num_computed_tokens: count,
    num_recomputed_tokens: count,
    ledger,
    num_remote_tokens: count.nullable(),
    kv_bytes_d_to_p: measure,
    kv_transfer_ms_d_to_p: measure,
    kv_bytes_p_to_d: measure,
    kv_transfer_ms_p_to_d: measure,
    num_decode_computed_tokens: count,
    kv_hop_bytes: z.partialRecord(z.enum(kvHops), measure).optional(),
    two_hop_bytes: measure.optional(),
    pull_estimate: z
      .object({ num_tokens: count, num_pulled_tokens: count, pull_ms: measure, recompute_ms: measure })
      .nullish(),
  })
  .refine((stats) => ledgerBins.reduce((sum, bin) => sum + stats.ledger[bin], 0) === stats.num_prompt_tokens);

/** As many alternatives as a request may ask for. */
const maxAlternatives = 128;

const logprob = z.number().min(-1e30).max(1);

const firstToken = z.object({
  token_id: count,
  logprobs: z
    .object({
      logprob,
      rank: z.int().min(1).max(maxInt32),
      top: z.array(z.object({ token_id: count, logprob })).max(maxAlternatives),
    })
    .nullish(),
  streamed: z.boolean().optional(),
  created: count.optional(),
});

const maxAnswerTokens = 1_000_000;

interface Field {
  readonly schema: z.ZodType;
  /** Completes the sentence "Expected kv_transfer_params.<field> to be …". */
  readonly expected: string;
  /** The answer does not depend on it, so a wrong one costs itself and not the request. */
  readonly isStatistic?: boolean;
}

const flag: Field = { schema: z.boolean(), expected: 'true or false' };
const counter: Field = { schema: count, expected: `an integer from 0 to ${maxInt32}` };

const fields: Readonly<Record<keyof KvTransferParams, Field>> = {
  do_remote_prefill: flag,
  do_remote_decode: flag,
  remote_engine_id: {
    schema: identifier.nullable(),
    expected: 'a string of 1 to 512 characters or null',
  },
  remote_block_ids: {
    schema: z.array(z.array(count).max(maxRemoteBlocks)).max(1).nullable(),
    expected: `null or at most one list (this engine has one KV-cache group) of at most ${maxRemoteBlocks} block ids`,
  },
  remote_request_id: {
    schema: identifier.nullable(),
    expected: 'a string of 1 to 512 characters or null',
  },
  remote_host: {
    schema: z.string().min(1).max(255).nullable(),
    expected: 'a host name of 1 to 255 characters or null',
  },
  remote_port: {
    schema: z.int().min(1).max(65_535).nullable(),
    expected: 'an integer from 1 to 65535 or null',
  },
  tp_size: { schema: z.int().min(1).max(1024), expected: 'an integer from 1 to 1024' },
  remote_num_tokens: counter,
  remote_blocks_expiry_time: { schema: z.number().nullable(), expected: 'a number of seconds or null' },
  transfer_mode: { schema: z.literal('pull'), expected: "'pull', the only mode that this engine has" },
  remote_prefill_cached_tokens: { ...counter, isStatistic: true },
  remote_lease_expires_in_ms: {
    schema: z.number().min(0).max(maxDurationMs),
    expected: `a number of milliseconds from 0 to ${maxDurationMs}`,
  },
  cache_query: flag,
  lease: flag,
  remote_claims_mac: { schema: z.string().length(64), expected: 'a string of 64 characters' },
  remote_shared_block_hashes: {
    schema: z.array(z.string().regex(/^[0-9a-f]{64}$/)).max(maxRemoteBlocks),
    expected: `at most ${maxRemoteBlocks} block hashes of 64 hex digits`,
  },
  remote_answer_token_ids: {
    schema: z.array(count).max(maxAnswerTokens),
    expected: `at most ${maxAnswerTokens} token ids`,
  },
  remote_prefill_stats: {
    schema: prefillStats,
    expected: 'prefill statistics whose counts are not negative and whose ledger sums to num_prompt_tokens',
    isStatistic: true,
  },
  return_first_token: flag,
  remote_first_token: {
    schema: firstToken.nullable(),
    expected: `null or a token id with, if asked for, its log probability and at most ${maxAlternatives} alternatives`,
  },
};

/**
 * Checks what came as `kv_transfer_params`; absent or null gives null, unknown keys are dropped, and so are statistics that
 * cannot be, each told to `onDropped`. Throws INVALID_ARGUMENT whose `param` names the field.
 */
export function parseKvTransferParams(
  value: unknown,
  onDropped: (reason: string) => void = () => {},
): KvTransferParams | null {
  if (value === undefined || value === null) return null;
  if (typeof value !== 'object' || Array.isArray(value)) throw refusal(null, 'an object or null', value);
  const parsed: Record<string, unknown> = {};
  for (const [name, { schema, expected, isStatistic }] of Object.entries(fields)) {
    const given: unknown = (value as Record<string, unknown>)[name];
    if (given === undefined) continue;
    const result = schema.safeParse(given);
    if (result.success) parsed[name] = result.data;
    else if (isStatistic) onDropped(refusal(name, expected, given).message);
    else throw refusal(name, expected, given);
  }
  const params: KvTransferParams = parsed;
  if (params.do_remote_prefill && params.do_remote_decode) {
    throw refusal('do_remote_decode', 'false when do_remote_prefill is true', true);
  }
  return params;
}

function refusal(field: string | null, expected: string, received: unknown): VllmPdError {
  const param = field === null ? 'kv_transfer_params' : `kv_transfer_params.${field}`;
  return new VllmPdError(
    'INVALID_ARGUMENT',
    `Expected ${param} to be ${expected} but received ${describe(received)}.`,
    { param },
  );
}

function describe(value: unknown): string {
  if (Array.isArray(value)) return `an array of ${value.length} entries`;
  if (typeof value === 'object' && value !== null) return 'an object that is not';
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

/** What a request asks of this node, beyond running it. */
export type TransferKind =
  | 'none'
  /** This node decodes: P has prefilled, its blocks are to be pulled. */
  | 'remote_prefill'
  /** This node prefills and then holds the blocks for D; it may be told of blocks of D's that can be pulled first. */
  | 'remote_decode'
  | 'cache_query';

export function classifyTransfer(params: KvTransferParams | null): TransferKind {
  if (params?.cache_query) return 'cache_query';
  if (params?.do_remote_prefill) return 'remote_prefill';
  if (params?.do_remote_decode) return 'remote_decode';
  return 'none';
}

/** Where the peer's blocks are, and which; null when the params do not name a peer completely. */
export function remoteBlocksOf(
  params: KvTransferParams | null,
): { readonly remote: RemoteBlocks; readonly blockIds: readonly number[] } | null {
  if (!params?.remote_engine_id || !params.remote_request_id || !params.remote_host || !params.remote_port) {
    return null;
  }
  return {
    remote: {
      engineId: params.remote_engine_id,
      host: params.remote_host,
      port: params.remote_port,
      requestId: params.remote_request_id,
    },
    blockIds: params.remote_block_ids?.[0] ?? [],
  };
}

/**
 * Hop 1 without blocks to pull: what a proxy sends to P so that P holds the prompt's blocks for D.
 * `decodeNodeWasAsked`: a cache query found nothing, which the ledger tells from not having asked.
 */
export function remoteDecodeParams(decodeNodeWasAsked = false): KvTransferParams {
  return {
    do_remote_decode: true,
    do_remote_prefill: false,
    remote_engine_id: null,
    remote_block_ids: null,
    remote_host: null,
    remote_port: null,
    ...(decodeNodeWasAsked ? { remote_num_tokens: 0 } : {}),
  };
}

/** P's cached prompt tokens, for D's `usage.prompt_tokens_details.cached_tokens`. */
export function cachedTokensOf(stats: PrefillStats): number {
  return stats.ledger.local_hit + stats.ledger.pulled_from_d + stats.ledger.pulled_from_store;
}
