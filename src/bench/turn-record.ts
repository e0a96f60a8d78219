// One row of a run: what one turn in one mode cost. Kept as turns.jsonl and turns.csv; everything else derives from it.
import { createHash } from 'node:crypto';
import type { KvTransferMode } from '../config.js';
import { byBin, type KvHop, type Ledger, type LedgerBin, ledgerBins, type PrefillStats } from '../wire.js';
import type { ChatAnswer } from './chat-answer.js';

type LedgerColumns = { readonly [Bin in LedgerBin as `ledger_${Bin}`]: number };
/** The closed form's ledger; null where it does not determine the turn. */
type ExpectedColumns = { readonly [Bin in LedgerBin as `expected_${Bin}`]: number | null };

/** Column names are a file format. Of a failed turn only the identity, `start_time_ms` and `error` mean anything. */
export interface TurnRecord extends LedgerColumns, ExpectedColumns {
  readonly mode: KvTransferMode;
  readonly conversation_id: string;
  /** 1 = the first user message. */
  readonly turn: number;
  /** Played before measuring and left out of every statistic. */
  readonly warmup: boolean;
  /** Since the run began. */
  readonly start_time_ms: number;
  /** When it was to be sent, since the run began; null in a closed loop, absent in runs from before there was another. */
  readonly planned_start_ms: number | null;
  /** Nothing was said about the prefill, as by vLLM's nodes: columns about it are 0. Absent in runs from before. */
  readonly prefill_unknown: boolean;
  readonly num_prompt_tokens: number;
  /** Prompt tokens that the prefill node ran through its model. */
  readonly num_computed_tokens: number;
  readonly num_recomputed_tokens: number;
  readonly kv_bytes_p_to_d: number;
  readonly kv_bytes_d_to_p: number;
  /** From the reading node's own stores. */
  readonly kv_bytes_dedicated: number;
  /** From the store that all nodes share. */
  readonly kv_bytes_shared: number;
  /** Of the bytes between nodes, what the reader could have read from the shared store. */
  readonly two_hop_bytes: number;
  /** Prompt tokens that P could have read from D or a store, and that it did read. */
  readonly num_pullable_tokens: number;
  readonly num_pulled_tokens: number;
  readonly kv_transfer_ms_p_to_d: number;
  readonly kv_transfer_ms_d_to_p: number;
  readonly ttft_ms: number | null;
  /**
   * Of a turn in uni: of the same history with another message of the same length, right after it, when the prefill node
   * has all of the history. Null where it was not asked; absent in runs from before.
   */
  readonly full_hit_ttft_ms: number | null;
  /** (e2el_ms − ttft_ms) / (num_output_tokens − 1); null for answers of one token. */
  readonly tpot_ms: number | null;
  readonly e2el_ms: number | null;
  /**
   * Between one chunk with content and the next, in ms: vLLM's ITL. The first one has the hand-over from P to D in it.
   * Absent in runs from before.
   */
  readonly itl_ms: readonly number[];
  readonly num_output_tokens: number;
  readonly output_sha256: string | null;
  /** Tokens of the previous prompt and answer; 0 for a first turn. */
  readonly num_history_tokens: number;
  /** How many of them this prompt begins with; fewer = the template did not bring the answer back as it was. */
  readonly num_matching_history_tokens: number;
  /** The sentence of a turn that failed. */
  readonly error: string | null;
}

export interface TurnIdentity {
  readonly mode: KvTransferMode;
  readonly conversationId: string;
  readonly turn: number;
  readonly warmup: boolean;
  readonly startTimeMs: number;
  /** Null = as soon as it could be. */
  readonly plannedStartMs: number | null;
}

/** The tokens a conversation had consisted of before this turn. */
export interface History {
  readonly promptTokenIds: readonly number[];
  readonly outputTokenIds: readonly number[];
}

const emptyLedger: Ledger = byBin(() => 0);

function ledgerColumns(ledger: Ledger): LedgerColumns {
  return Object.fromEntries(ledgerBins.map((bin) => [`ledger_${bin}`, ledger[bin] ?? 0])) as LedgerColumns;
}

export function expectedColumns(ledger: Ledger | null): ExpectedColumns {
  return Object.fromEntries(
    ledgerBins.map((bin) => [`expected_${bin}`, ledger === null ? null : ledger[bin]]),
  ) as ExpectedColumns;
}

export function ledgerOf(record: TurnRecord): Ledger {
  return byBin((bin) => record[`ledger_${bin}`]);
}

/** Null where the closed form does not determine the turn. */
export function expectedLedgerOf(record: TurnRecord): Ledger | null {
  if (record.expected_new === null) return null;
  return byBin((bin) => record[`expected_${bin}`] ?? 0);
}

/** A turn that is not over counts as failed until it is recorded otherwise. */
export function failedTurn(identity: TurnIdentity, error: string): TurnRecord {
  return {
    mode: identity.mode,
    conversation_id: identity.conversationId,
    turn: identity.turn,
    warmup: identity.warmup,
    start_time_ms: round(identity.startTimeMs),
    planned_start_ms: identity.plannedStartMs === null ? null : round(identity.plannedStartMs),
    prefill_unknown: false,
    num_prompt_tokens: 0,
    num_computed_tokens: 0,
    num_recomputed_tokens: 0,
    ...ledgerColumns(emptyLedger),
    ...expectedColumns(null),
    kv_bytes_p_to_d: 0,
    kv_bytes_d_to_p: 0,
    kv_bytes_dedicated: 0,
    kv_bytes_shared: 0,
    two_hop_bytes: 0,
    num_pullable_tokens: 0,
    num_pulled_tokens: 0,
    kv_transfer_ms_p_to_d: 0,
    kv_transfer_ms_d_to_p: 0,
    ttft_ms: null,
    full_hit_ttft_ms: null,
    tpot_ms: null,
    e2el_ms: null,
    itl_ms: [],
    num_output_tokens: 0,
    output_sha256: null,
    num_history_tokens: 0,
    num_matching_history_tokens: 0,
    error,
  };
}

export function recordTurn(identity: TurnIdentity, answer: ChatAnswer, history: History | null): TurnRecord {
  const { prefillStats: stats, ttftMs, e2elMs, numOutputTokens } = answer;
  return {
    ...failedTurn(identity, ''),
    ...(stats ? prefillColumns(stats) : { prefill_unknown: true }),
    num_prompt_tokens: answer.numPromptTokens,
    ttft_ms: round(ttftMs),
    tpot_ms: numOutputTokens > 1 ? round((e2elMs - ttftMs) / (numOutputTokens - 1)) : null,
    e2el_ms: round(e2elMs),
    itl_ms: answer.itlMs.map(round),
    num_output_tokens: numOutputTokens,
    output_sha256: createHash('sha256').update(answer.text).digest('hex'),
    num_history_tokens: history ? history.promptTokenIds.length + history.outputTokenIds.length : 0,
    num_matching_history_tokens: history ? numMatching(history, answer.promptTokenIds ?? []) : 0,
    error: null,
  };
}

function prefillColumns(stats: PrefillStats) {
  return {
    num_computed_tokens: stats.num_computed_tokens,
    num_recomputed_tokens: stats.num_recomputed_tokens,
    ...ledgerColumns(stats.ledger),
    kv_bytes_p_to_d: stats.kv_bytes_p_to_d,
    kv_bytes_d_to_p: stats.kv_bytes_d_to_p,
    kv_bytes_dedicated: hopBytes(stats, 'dedicated_to_p', 'dedicated_to_d'),
    kv_bytes_shared: hopBytes(stats, 'shared_to_p', 'shared_to_d'),
    two_hop_bytes: stats.two_hop_bytes ?? 0,
    num_pullable_tokens: stats.pull_estimate?.num_tokens ?? 0,
    num_pulled_tokens: stats.pull_estimate?.num_pulled_tokens ?? 0,
    kv_transfer_ms_p_to_d: round(stats.kv_transfer_ms_p_to_d),
    kv_transfer_ms_d_to_p: round(stats.kv_transfer_ms_d_to_p),
  };
}

function hopBytes({ kv_hop_bytes = {} }: PrefillStats, ...hops: KvHop[]): number {
  return hops.reduce((sum, hop) => sum + (kv_hop_bytes[hop] ?? 0), 0);
}

/** Length of the longest prefix of the history that the prompt begins with, in tokens. */
function numMatching(history: History, promptTokenIds: readonly number[]): number {
  const before = [...history.promptTokenIds, ...history.outputTokenIds];
  const end = before.findIndex((tokenId, i) => promptTokenIds[i] !== tokenId);
  return end === -1 ? before.length : end;
}

/** Microseconds are the finest that a client can tell. */
function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
