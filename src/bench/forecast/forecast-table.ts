// A forecast as text for a terminal.
import { datasetLines } from '../datasets/report.js';
import { formatBytes, formatCount, formatMs, formatPercent, formatShare } from '../format.js';
import { renderTable } from '../render-table.js';
import type { Forecast } from './forecast.js';
import type { Lengths, LoadForecast, Scenario } from './load-forecast.js';
import type { ModeForecast } from './simulate.js';

export function renderForecast(forecast: Forecast): string {
  const { played, whole_file: file, dataset, notes } = forecast;
  const loads = [['played', played] as const, ...(file ? [['whole file', file] as const] : [])];
  return [
    `${forecast.workload.name}: what would be played, and what reuse could save. No node was started.`,
    loadTable(loads, forecast.kv.bytes_per_token),
    ...loads.flatMap(([name, load]) => [
      `${name === 'played' ? 'As played' : 'The whole file'}: ${verdict(load)}`,
      scenarioTable(load, forecast),
      ...(load.decode_sizes.length > 0 && !(load === file && !file.has_times)
        ? [sizeTable(load, forecast)]
        : []),
    ]),
    [
      `· KV of ${forecast.kv.model}: ${formatBytes(forecast.kv.bytes_per_token)} a token (${forecast.kv.dtype})`,
      ...datasetLines(dataset ?? undefined),
      ...(file && !file.complete ? ['· whole file: only its first rows were read'] : []),
      ...(file && !file.has_times
        ? ['· whole file: it has no times, so its turns are taken in rounds, which is hard on caches']
        : []),
      ...notes.map((note) => `· ${note}`),
    ].join('\n'),
  ].join('\n\n');
}

const spread = ({ p50, p90, max }: Lengths) =>
  p50 === null ? '–' : `${formatCount(p50)} / ${formatCount(p90)} / ${formatCount(max)}`;

function loadTable(loads: readonly (readonly [string, LoadForecast])[], bytesPerToken: number): string {
  const kv = (numTokens: number | undefined) =>
    numTokens === undefined ? '–' : formatBytes(numTokens * bytesPerToken);
  const rows: readonly (readonly [string, (load: LoadForecast) => string])[] = [
    ['conversations', (load) => formatCount(load.num_conversations)],
    ['of these, of one turn', (load) => formatCount(load.num_single_turn_conversations)],
    ['turns', (load) => formatCount(load.num_turns)],
    ['of these, turns ≥ 2', (load) => formatCount(load.num_follow_up_turns)],
    ['turns a conversation, p50 / p90 / max', (load) => spread(load.turns_per_conversation)],
    ['prompt tokens, p50 / p90 / max', (load) => spread(load.prompt_tokens)],
    ['added by turns ≥ 2, p50 / p90 / max', (load) => spread(load.added_tokens)],
    ['answer tokens, p50 / p90 / max', (load) => spread(load.output_tokens)],
    ['between turns, p50', ({ retention }) => formatMs(retention?.turn_gap_ms.p50 ?? null)],
    ['between turns, p90', ({ retention }) => formatMs(retention?.turn_gap_ms.p90 ?? null)],
    ['back before a ticket ends', ({ retention }) => formatShare(retention?.within_ticket_ttl ?? null)],
    ['KV kept for those who come back, mean', ({ retention }) => kv(retention?.mean_retained_tokens)],
    ['KV kept for those who come back, peak', ({ retention }) => kv(retention?.peak_retained_tokens)],
  ];
  const shown = rows.filter(([, value]) => loads.some(([, load]) => value(load) !== '–'));
  return renderTable(
    ['', ...loads.map(([name]) => name)],
    shown.map(([label, value]) => [label, ...loads.map(([, load]) => value(load))]),
  );
}

/** The answer in one sentence, for caches as they are. */
function verdict({ scenarios: { configured, prefill_lost: lost } }: LoadForecast): string {
  const saved = ({ uni, bi }: Scenario) =>
    formatPercent(uni.num_computed_tokens === 0 ? 0 : 1 - bi.num_computed_tokens / uni.num_computed_tokens);
  if (lost.uni.num_recomputed_tokens === 0)
    return 'no turn follows another one, so there is nothing to reuse.';
  return (
    `bi would compute ${saved(configured)} fewer prompt tokens than uni with these pools, ` +
    `${saved(lost)} fewer if P lost every history and D none.`
  );
}

/** How large D's cache has to be for what P has lost. */
function sizeTable({ decode_sizes: sizes }: LoadForecast, { kv }: Forecast): string {
  return renderTable(
    ['cache on D', ...sizes.map(({ num_blocks: blocks }) => formatBytes(blocks * kv.bytes_per_block))],
    [['has of what P lost', ...sizes.map(({ found_ratio: found }) => formatShare(found))]],
  );
}

function scenarioTable({ scenarios }: LoadForecast, { config, kv }: Forecast): string {
  const { num_prefill_blocks: onP, num_decode_blocks: onD } = config;
  const pools = onP === onD ? formatCount(onP) : `${formatCount(onP)} and ${formatCount(onD)}`;
  const named: readonly (readonly [string, Scenario])[] = [
    [`pools of ${pools} blocks`, scenarios.configured],
    ['nothing is evicted', scenarios.everything_fits],
    ['P lost it, D has all', scenarios.prefill_lost],
  ];
  const row = (label: string, mode: string, forecast: ModeForecast) => [
    label,
    mode,
    formatCount(forecast.num_computed_tokens),
    formatCount(forecast.num_recomputed_tokens),
    formatCount(forecast.ledger.local_hit),
    formatCount(forecast.ledger.pulled_from_d),
    formatBytes(forecast.num_blocks_p_to_d * kv.bytes_per_block),
    formatBytes(forecast.num_blocks_d_to_p * kv.bytes_per_block),
  ];
  const isConfigured = ({ uni, bi }: Scenario) =>
    JSON.stringify([uni, bi]) === JSON.stringify([scenarios.configured.uni, scenarios.configured.bi]);
  const told = named.filter(([, scenario], i) => i === 0 || !isConfigured(scenario));
  return renderTable(
    ['caches', 'mode', 'computed', 'again', 'on P', 'pulled from D', 'KV P→D', 'KV D→P'],
    told.flatMap(([label, { uni, bi }]) => [row(label, 'uni', uni), row('', 'bi', bi)]),
  );
}
