// What a follow-up turn costs by the length of its prompt: where does reading KV begin to pay?
import type { KvTransferMode } from '../config.js';
import { formatCount, formatMs } from './format.js';
import { renderTable } from './render-table.js';
import { ratio, summarize } from './stats.js';
import type { RunSummary } from './summary.js';
import type { TurnRecord } from './turn-record.js';

/** Turns ≥ 2 that were answered: first turns have nothing to reuse, whatever their length. */
export function followUps(turns: readonly TurnRecord[]): TurnRecord[] {
  return turns.filter(({ warmup, error, turn }) => !warmup && error === null && turn > 1);
}

/** Whether prompts differ enough for their length to tell more than the number of the turn. */
export function hasManyLengths(turns: readonly TurnRecord[]): boolean {
  const lengths = followUps(turns).map((turn) => turn.num_prompt_tokens);
  return lengths.length > 0 && Math.max(...lengths) >= 4 * Math.min(...lengths);
}

/** One row for each doubling of the prompt; empty where prompts are much of a length. */
export function lengthTable({ modes }: RunSummary, turns: readonly TurnRecord[]): string {
  if (!hasManyLengths(turns)) return '';
  const names = Object.keys(modes) as KvTransferMode[];
  const rows = byDoubling(followUps(turns)).map(([shortest, members]) => {
    const ttft = names.map((name) => medianTtft(members.filter(({ mode }) => mode === name)));
    const speedup = names.length > 1 ? ratio(ttft[0]!, ttft[1]!) : null;
    return [
      `${formatCount(shortest)} – ${formatCount(2 * shortest - 1)}`,
      formatCount(members.length / names.length),
      ...ttft.map(formatMs),
      ...(names.length > 1 ? [speedup === null ? '–' : `${speedup.toFixed(2)}×`] : []),
    ];
  });
  const head = ['prompt tokens', 'turns', ...names.map((name) => `TTFT ${name}`)];
  if (names.length > 1) head.push('speed-up');
  return `Medians of turns ≥ 2 by length of the prompt\n${renderTable(head, rows)}`;
}

/** Ranges from a power of two to the next, each with its turns; shortest first. */
function byDoubling(turns: readonly TurnRecord[]): [shortest: number, TurnRecord[]][] {
  const ranges = new Map<number, TurnRecord[]>();
  for (const turn of turns) {
    const shortest = 2 ** Math.floor(Math.log2(turn.num_prompt_tokens));
    ranges.set(shortest, [...(ranges.get(shortest) ?? []), turn]);
  }
  return [...ranges].sort(([a], [b]) => a - b);
}

function medianTtft(turns: readonly TurnRecord[]): number | null {
  return summarize(turns.map(({ ttft_ms }) => ttft_ms)).p50;
}
