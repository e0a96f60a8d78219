// From turns to figures: a pure function, so that a kept run can be summarised again. Field names are a file format.
import type { KvTransferMode } from '../config.js';
import { byBin, type LedgerBin, ledgerBins } from '../wire.js';
import { pairTurns } from './checks.js';
import { type Goodput, type Objectives, summarizeGoodput } from './goodput.js';
import { regretOf } from './regret.js';
import type { RunInfo } from './run-info.js';
import { scheduleSummary } from './schedule-lag.js';
import { type Percentiles, ratio, type Summary, summarize } from './stats.js';
import { summarizeThroughput, type Throughput } from './throughput.js';
import { expectedLedgerOf, ledgerOf, type TurnRecord } from './turn-record.js';

/** Sums and statistics over all measured turns of one mode that were answered. */
export interface ModeSummary {
  /** Turns played, failed ones included. */
  readonly num_turns: number;
  readonly num_failed_turns: number;
  /** Answered, but without a word about the prefill: not in the sums about it. Absent when there are none. */
  readonly num_unknown_prefills?: number;
  readonly num_prompt_tokens: number;
  readonly num_computed_tokens: number;
  readonly num_recomputed_tokens: number;
  readonly num_output_tokens: number;
  readonly ledger: Readonly<Record<LedgerBin, number>>;
  readonly kv_bytes_p_to_d: number;
  readonly kv_bytes_d_to_p: number;
  /** Absent in runs from before there were stores. */
  readonly kv_bytes_dedicated?: number;
  readonly kv_bytes_shared?: number;
  readonly two_hop_bytes?: number;
  /** Time beyond the better of pulling and computing, per turn that had the choice; absent where nobody can tell. */
  readonly pull_regret_ms?: Summary;
  /** Sent − planned; absent in a closed loop. */
  readonly schedule_lag_ms?: Summary;
  /** Of an open loop: turns were sent so late that they were not the load that was asked for. */
  readonly degraded?: boolean;
  readonly ttft_ms: Summary;
  readonly tpot_ms: Summary;
  readonly e2el_ms: Summary;
  /** vLLM's ITL: every gap between chunks of all turns. Absent in runs from before it was recorded. */
  readonly itl_ms?: Summary;
  /** e2el_ms / output tokens, by turn. */
  readonly normalized_tpot_ms: Summary;
  readonly throughput: Throughput;
  /** Absent unless somebody said what is good. */
  readonly goodput?: Goodput;
  /** Prompt tokens that P found or read instead of computing, over all prompt tokens. */
  readonly cached_token_ratio: number | null;
  readonly kv_transfer_ms_p_to_d: Summary;
  readonly kv_transfer_ms_d_to_p: Summary;
  /** Turns ≥ 2 only: the ones that can reuse anything. */
  readonly follow_up: FollowUpSummary;
  /** Turns whose prompt did not begin with the tokens of the turn before. */
  readonly num_template_mismatches: number;
  readonly closed_form: { readonly num_checked: number; readonly num_equal: number };
}

export interface FollowUpSummary {
  readonly num_turns: number;
  readonly num_prompt_tokens: number;
  readonly num_computed_tokens: number;
  readonly num_recomputed_tokens: number;
  readonly ttft_ms: Summary;
}

/** Over the turns that were answered in both modes. */
export interface Comparison {
  readonly num_identical_outputs: number;
  readonly num_turns: number;
  /** bi / uni: 0.2 = bi computed a fifth as many tokens again. */
  readonly recomputed_tokens_ratio: number | null;
  readonly computed_tokens_ratio: number | null;
  /** Which turns the two speed-ups are over: first turns have nothing to reuse in either mode. */
  readonly ttft_turns: 'follow_up';
  /** uni / bi: 2 = the first token came in half the time with bi. */
  readonly ttft_speedup_p50: number | null;
  readonly ttft_speedup_mean: number | null;
  readonly ttft_speedup_p50_all_turns: number | null;
  readonly ttft_speedup_mean_all_turns: number | null;
  /** Null unless full hits were asked for. */
  readonly reuse: ReuseSummary | null;
  /** Null when bi had something to gain in every turn. */
  readonly no_gain: NoGainSummary | null;
}

/** Turns of which uni computed no more than bi: what bi costs where it cannot help. */
export interface NoGainSummary {
  readonly num_turns: number;
  /** Median over the turns of bi − uni. */
  readonly ttft_added_ms_p50: number | null;
}

/** Medians over the turns in uni that were asked once more with all of their history on P, and the same turns in bi. */
export interface ReuseSummary {
  readonly num_turns: number;
  readonly ttft_uni_p50: number;
  readonly ttft_bi_p50: number;
  readonly ttft_full_hit_p50: number;
  /** (uni − bi) / (uni − full hit): 1 = reading KV from D costs no more than having it. Null when a hit saves nothing. */
  readonly reuse_efficiency: number | null;
}

export interface RunSummary {
  readonly run: RunInfo;
  readonly modes: { readonly [Mode in KvTransferMode]?: ModeSummary };
  /** Null unless both modes were played. */
  readonly comparison: Comparison | null;
}

export function summarizeRun(run: RunInfo, turns: readonly TurnRecord[]): RunSummary {
  const measured = turns.filter(({ warmup }) => !warmup);
  const modes = run.workload.modes.map((mode) => {
    const own = measured.filter((turn) => turn.mode === mode);
    return [mode, summarizeMode(own, run.metric_percentiles, run.goodput)] as const;
  });
  return {
    run,
    modes: Object.fromEntries(modes),
    comparison: modes.length > 1 ? compareModes(measured) : null,
  };
}

function summarizeMode(
  turns: readonly TurnRecord[],
  percentiles: Percentiles = [],
  objectives?: Objectives,
): ModeSummary {
  const answered = turns.filter(({ error }) => error === null);
  const followUps = answered.filter(({ turn }) => turn > 1);
  const checked = answered.filter((turn) => expectedLedgerOf(turn) !== null);
  const throughput = summarizeThroughput(answered);
  const numPrompt = sum(answered, 'num_prompt_tokens');
  return {
    num_turns: turns.length,
    num_failed_turns: turns.length - answered.length,
    ...unknownPrefills(answered),
    num_prompt_tokens: numPrompt,
    num_computed_tokens: sum(answered, 'num_computed_tokens'),
    num_recomputed_tokens: sum(answered, 'num_recomputed_tokens'),
    num_output_tokens: sum(answered, 'num_output_tokens'),
    ledger: byBin((bin) => sum(answered, `ledger_${bin}`)),
    kv_bytes_p_to_d: sum(answered, 'kv_bytes_p_to_d'),
    kv_bytes_d_to_p: sum(answered, 'kv_bytes_d_to_p'),
    ...storageSummary(answered),
    ...scheduleSummary(turns),
    ...timeSummary(answered, percentiles),
    throughput,
    ...(objectives && { goodput: summarizeGoodput(turns, objectives, throughput.duration_s) }),
    cached_token_ratio: answered.some((turn) => turn.prefill_unknown)
      ? null
      : ratio(numPrompt - sum(answered, 'num_computed_tokens'), numPrompt),
    kv_transfer_ms_p_to_d: summarize(answered.map((turn) => turn.kv_transfer_ms_p_to_d)),
    kv_transfer_ms_d_to_p: summarize(answered.map((turn) => turn.kv_transfer_ms_d_to_p)),
    follow_up: {
      num_turns: followUps.length,
      num_prompt_tokens: sum(followUps, 'num_prompt_tokens'),
      num_computed_tokens: sum(followUps, 'num_computed_tokens'),
      num_recomputed_tokens: sum(followUps, 'num_recomputed_tokens'),
      ttft_ms: summarize(
        followUps.map((turn) => turn.ttft_ms),
        percentiles,
      ),
    },
    num_template_mismatches: answered.filter(
      (turn) => turn.num_matching_history_tokens < turn.num_history_tokens,
    ).length,
    closed_form: { num_checked: checked.length, num_equal: checked.filter(equalsClosedForm).length },
  };
}

function timeSummary(answered: readonly TurnRecord[], percentiles: Percentiles) {
  const of = (value: (turn: TurnRecord) => number | null) => summarize(answered.map(value), percentiles);
  const gaps = answered.flatMap(({ itl_ms }) => itl_ms ?? []);
  return {
    ttft_ms: of(({ ttft_ms }) => ttft_ms),
    tpot_ms: of(({ tpot_ms }) => tpot_ms),
    e2el_ms: of(({ e2el_ms }) => e2el_ms),
    ...(gaps.length > 0 && { itl_ms: summarize(gaps, percentiles) }),
    normalized_tpot_ms: of(({ e2el_ms, num_output_tokens: n }) =>
      e2el_ms === null || n === 0 ? null : e2el_ms / n,
    ),
  };
}

function unknownPrefills(answered: readonly TurnRecord[]): Pick<ModeSummary, 'num_unknown_prefills'> {
  const count = answered.filter((turn) => turn.prefill_unknown).length;
  return count === 0 ? {} : { num_unknown_prefills: count };
}

/** True when some turn was answered and of none is known how it was prefilled. */
export function isPrefillUnknown(mode: ModeSummary): boolean {
  return (
    mode.num_unknown_prefills !== undefined &&
    mode.num_unknown_prefills === mode.num_turns - mode.num_failed_turns
  );
}

/** Empty for runs kept before there were stores. */
function storageSummary(answered: readonly TurnRecord[]) {
  if (answered.some((turn) => turn.two_hop_bytes === undefined)) return {};
  const regrets = [...regretOf(answered).values()];
  return {
    kv_bytes_dedicated: sum(answered, 'kv_bytes_dedicated'),
    kv_bytes_shared: sum(answered, 'kv_bytes_shared'),
    two_hop_bytes: sum(answered, 'two_hop_bytes'),
    ...(regrets.length > 0 && { pull_regret_ms: summarize(regrets) }),
  };
}

function compareModes(turns: readonly TurnRecord[]): Comparison {
  const pairs = pairTurns(turns);
  const uni = summarizeMode(pairs.map(([turn]) => turn));
  const bi = summarizeMode(pairs.map(([, turn]) => turn));
  return {
    num_identical_outputs: pairs.filter(([a, b]) => a.output_sha256 === b.output_sha256).length,
    num_turns: pairs.length,
    recomputed_tokens_ratio: ratio(bi.num_recomputed_tokens, uni.num_recomputed_tokens),
    computed_tokens_ratio: ratio(bi.num_computed_tokens, uni.num_computed_tokens),
    ttft_turns: 'follow_up',
    ttft_speedup_p50: ratio(uni.follow_up.ttft_ms.p50, bi.follow_up.ttft_ms.p50),
    ttft_speedup_mean: ratio(uni.follow_up.ttft_ms.mean, bi.follow_up.ttft_ms.mean),
    ttft_speedup_p50_all_turns: ratio(uni.ttft_ms.p50, bi.ttft_ms.p50),
    ttft_speedup_mean_all_turns: ratio(uni.ttft_ms.mean, bi.ttft_ms.mean),
    reuse: summarizeReuse(pairs),
    no_gain: summarizeNoGain(pairs),
  };
}

function summarizeNoGain(
  pairs: readonly (readonly [uni: TurnRecord, bi: TurnRecord])[],
): NoGainSummary | null {
  const even = pairs.filter(([uni, bi]) => uni.num_computed_tokens <= bi.num_computed_tokens);
  if (even.length === 0) return null;
  const added = even.map(([uni, bi]) =>
    uni.ttft_ms === null || bi.ttft_ms === null ? null : bi.ttft_ms - uni.ttft_ms,
  );
  return { num_turns: even.length, ttft_added_ms_p50: summarize(added).p50 };
}

function summarizeReuse(pairs: readonly (readonly [uni: TurnRecord, bi: TurnRecord])[]): ReuseSummary | null {
  const asked = pairs.filter(([uni]) => uni.full_hit_ttft_ms != null);
  const uni = summarize(asked.map(([turn]) => turn.ttft_ms)).p50;
  const bi = summarize(asked.map(([, turn]) => turn.ttft_ms)).p50;
  const fullHit = summarize(asked.map(([turn]) => turn.full_hit_ttft_ms ?? null)).p50;
  if (uni === null || bi === null || fullHit === null) return null;
  return {
    num_turns: asked.length,
    ttft_uni_p50: uni,
    ttft_bi_p50: bi,
    ttft_full_hit_p50: fullHit,
    reuse_efficiency: uni > fullHit ? ratio(uni - bi, uni - fullHit) : null,
  };
}

function equalsClosedForm(turn: TurnRecord): boolean {
  const expected = expectedLedgerOf(turn);
  const ledger = ledgerOf(turn);
  return expected !== null && ledgerBins.every((bin) => ledger[bin] === expected[bin]);
}

type CountColumn = {
  [Column in keyof TurnRecord]: TurnRecord[Column] extends number ? Column : never;
}[keyof TurnRecord];

function sum(turns: readonly TurnRecord[], column: CountColumn): number {
  return turns.reduce((total, turn) => total + turn[column], 0);
}
