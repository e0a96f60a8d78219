// A run as text for a terminal: the headline, then tables. Pure, so that a kept run prints as it did when it ended.
import type { KvTransferMode } from '../config.js';
import { type LedgerBin, ledgerBins, recomputedBins } from '../wire.js';
import { datasetLines } from './datasets/report.js';
import { figuresOf } from './figures.js';
import { bar, formatCount, formatMs, formatPercent, formatSpeedup, stackedBar } from './format.js';
import { lengthTable } from './length-table.js';
import { renderTable } from './render-table.js';
import { scheduleLines } from './schedule-lag.js';
import { summarize } from './stats.js';
import { isPrefillUnknown, type ModeSummary, type RunSummary } from './summary.js';
import type { TurnRecord } from './turn-record.js';

/** `width` in columns; bars shrink with it. */
export function renderRun(summary: RunSummary, turns: readonly TurnRecord[], width = 80): string {
  const someAnswered = turns.some(({ warmup, error }) => !warmup && error === null);
  const isPrefillTold = !Object.values(summary.modes).every(isPrefillUnknown);
  const parts = [
    headline(summary),
    modeTable(summary),
    someAnswered && isPrefillTold && ledgerTable(summary, width),
    someAnswered && turnTable(summary, turns),
    lengthTable(summary, turns),
    [reuseLine(summary), noGainLine(summary)].filter(Boolean).join('\n'),
    notes(summary),
  ];
  return parts.filter(Boolean).join('\n\n');
}

/** The run in one sentence. */
export function headline({ run, modes, comparison }: RunSummary): string {
  const started = `${run.workload.name}${run.complete ? '' : ' (incomplete)'}: `;
  if (Object.values(modes).every((mode) => mode.num_turns === mode.num_failed_turns)) {
    return `${started}no turn was answered.`;
  }
  if (!comparison) {
    const [mode, only] = Object.entries(modes)[0] as [KvTransferMode, ModeSummary];
    if (isPrefillUnknown(only)) {
      const numAnswered = only.num_turns - only.num_failed_turns;
      return `${started}${mode} answered ${formatCount(numAnswered)} turns; TTFT p50 ${formatMs(only.ttft_ms.p50)}.`;
    }
    return (
      `${started}${mode} computed ${formatCount(only.num_computed_tokens)} of ` +
      `${formatCount(only.num_prompt_tokens)} prompt tokens, ${formatCount(only.num_recomputed_tokens)} of them again; ` +
      `TTFT p50 ${formatMs(only.ttft_ms.p50)}.`
    );
  }
  const { recomputed_tokens_ratio: recomputed, ttft_speedup_p50: speedup } = comparison;
  const saved =
    recomputed === null
      ? 'neither mode computed prompt tokens again'
      : `bi computed ${formatPercent(Math.abs(1 - recomputed))} ${recomputed <= 1 ? 'fewer' : 'more'} prompt tokens again`;
  const faster = speedup === null ? '' : `; follow-up TTFT p50 ${formatSpeedup(speedup)}`;
  const same = `${comparison.num_identical_outputs}/${comparison.num_turns} outputs identical`;
  return `${started}${saved}${faster}; ${same}.`;
}

/** One column a mode. */
function modeTable({ run, modes }: RunSummary): string {
  const names = Object.keys(modes) as KvTransferMode[];
  const figures = figuresOf(
    names.map((name) => modes[name]!),
    run.metric_percentiles,
  );
  const rows = figures.map(({ label, value }) => [label, ...names.map((name) => value(modes[name]!))]);
  return renderTable(['', ...names], rows);
}

const glyphs = { reused: '█', pulled: '▓', first: '·', again: '▒' } as const;

function glyphOf(bin: LedgerBin): string {
  if (bin === 'local_hit') return glyphs.reused;
  if (bin === 'pulled_from_d' || bin === 'pulled_from_store') return glyphs.pulled;
  return bin === 'new' ? glyphs.first : glyphs.again;
}

/** Where the prompt tokens' KV came from: one stacked bar a mode, then the bins that have any. */
function ledgerTable({ modes }: RunSummary, width: number): string {
  const names = Object.keys(modes) as KvTransferMode[];
  const stacked = names.map((name) => {
    const { ledger, num_prompt_tokens: total } = modes[name]!;
    const shares = ledgerBins.map((bin) => ({ share: ledger[bin] / total, glyph: glyphOf(bin) }));
    return `${name.padEnd(4)}${total === 0 ? '' : stackedBar(shares, Math.min(60, Math.max(10, width - 6)))}`;
  });
  const hasOf = (bin: LedgerBin) => names.some((name) => modes[name]!.ledger[bin] > 0);
  const sources = hasOf('pulled_from_store') ? (hasOf('pulled_from_d') ? 'D or a store' : 'a store') : 'D';
  const legend = `    ${glyphs.reused} on P  ${glyphs.pulled} pulled from ${sources}  ${glyphs.first} new  ${glyphs.again} computed again`;
  // 27 columns for the names of bins, 18 around each bar.
  const barWidth = Math.min(16, Math.max(4, Math.floor((width - 27) / names.length) - 18));
  const used = ledgerBins.filter(hasOf);
  const rows = used.map((bin) => [
    (recomputedBins as readonly LedgerBin[]).includes(bin) ? `again: ${bin}` : bin,
    ...names.map((name) => {
      const { ledger, num_prompt_tokens: total } = modes[name]!;
      const share = total === 0 ? 0 : ledger[bin] / total;
      return `${formatCount(ledger[bin]).padStart(7)} ${formatPercent(share).padStart(5)} ${bar(share, barWidth)}`;
    }),
  ]);
  return [...stacked, legend, '', renderTable(['prompt tokens', ...names], rows, 'left')].join('\n');
}

/** Time to first token and tokens computed, by the number of the turn. */
function turnTable({ modes }: RunSummary, turns: readonly TurnRecord[]): string {
  const names = Object.keys(modes) as KvTransferMode[];
  const answered = turns.filter(({ warmup, error }) => !warmup && error === null);
  const last = Math.max(0, ...answered.map(({ turn }) => turn));
  const rows = Array.from({ length: last }, (_, i) => {
    const of = (name: KvTransferMode) => answered.filter(({ turn, mode }) => turn === i + 1 && mode === name);
    const mean = (name: KvTransferMode, column: 'num_prompt_tokens' | 'num_computed_tokens' | 'ttft_ms') =>
      summarize(of(name).map((turn) => (isTold(turn, column) ? turn[column] : null))).mean;
    return [
      String(i + 1),
      formatCount(mean(names[0]!, 'num_prompt_tokens')),
      ...names.map((name) => formatCount(mean(name, 'num_computed_tokens'))),
      ...names.map((name) => formatMs(mean(name, 'ttft_ms'))),
    ];
  });
  const head = [
    'turn',
    'prompt',
    ...names.map((name) => `computed ${name}`),
    ...names.map((name) => `TTFT ${name}`),
  ];
  return `Means by turn number\n${renderTable(head, rows)}`;
}

function isTold(turn: TurnRecord, column: string): boolean {
  return column !== 'num_computed_tokens' || !turn.prefill_unknown;
}

/** What is left of the saving where KV has to be read from D first. */
export function reuseLine({ comparison }: RunSummary): string {
  const reuse = comparison?.reuse;
  if (!reuse) return '';
  const { num_turns, ttft_uni_p50, ttft_bi_p50, ttft_full_hit_p50, reuse_efficiency } = reuse;
  const medians = `uni ${formatMs(ttft_uni_p50)}, bi ${formatMs(ttft_bi_p50)}, all of the history on P ${formatMs(ttft_full_hit_p50)}`;
  const efficiency = reuse_efficiency === null ? '–' : reuse_efficiency.toFixed(3);
  return `Reuse efficiency ${efficiency}: TTFT p50 of ${num_turns} turns in ${medians}`;
}

/** Whether bi pays where it cannot help. */
function noGainLine({ comparison }: RunSummary): string {
  const added = comparison?.no_gain?.ttft_added_ms_p50;
  if (added == null) return '';
  const sign = added < 0 ? '−' : '+';
  const numTurns = comparison?.no_gain?.num_turns;
  return `Nothing to gain in ${numTurns} turns: bi − uni there, TTFT ${sign}${formatMs(Math.abs(added))} (median)`;
}

/** What was checked, and what did not hold. */
function notes({ run, modes }: RunSummary): string {
  const lines = run.checks.map(({ name, ok, detail }) => `${ok ? '✓' : '✗'} ${name} (${detail})`);
  for (const [name, { num_unknown_prefills: count }] of Object.entries(modes)) {
    if (count === undefined) continue;
    lines.push(
      `! ${count} turns (${name}) came without prefill_stats, as from vLLM's nodes: what these computed and moved is not known.`,
    );
  }
  for (const [name, mode] of Object.entries(modes)) {
    if (mode.num_template_mismatches === 0) continue;
    lines.push(
      `! ${mode.num_template_mismatches} prompts (${name}) did not begin with the tokens of the turn before: ` +
        'see `vllm-pd model inspect`; where only the split differs, --reuse-token-ids helps.',
    );
  }
  const { num_decode_nodes: numDecodeNodes = 1, decode_routing: routing = 'session' } = run.config ?? {};
  if (numDecodeNodes > 1 && routing !== 'session') {
    lines.push(
      `! With --decode-routing ${routing} a conversation's turns may be decoded by different nodes: what another of them ` +
        'generated counts as new, and bi does not read it from there.',
    );
  }
  return [...lines, ...scheduleLines(modes), ...datasetLines(run.workload.dataset)].join('\n');
}
