// How long conversations pause between turns, and how much KV a decode node keeps meanwhile for those that come back.
import { ratio, type Summary, summarize } from '../stats.js';
import type { LengthConversation } from './turn-lengths.js';

export interface Retention {
  /** Between a turn and the next one of its conversation, when they were sent. */
  readonly turn_gap_ms: Summary;
  /** Share of follow-up turns that come before a ticket ends. */
  readonly within_ticket_ttl: number | null;
  /** KV of conversations that will come back, in tokens: at most, and on average over the time of the dataset. */
  readonly peak_retained_tokens: number;
  readonly mean_retained_tokens: number;
}

/** Null where the dataset has no times, or nobody comes back. */
export function retentionOf(
  conversations: readonly LengthConversation[],
  ticketTtlMs: number,
): Retention | null {
  const pauses = conversations.flatMap(({ turns }) =>
    turns.slice(1).map(({ arrivalMs }, i) => {
      const { arrivalMs: from, numPromptTokens, numOutputTokens } = turns[i]!;
      return { from, to: arrivalMs, numTokens: numPromptTokens + numOutputTokens };
    }),
  );
  const timed = pauses.flatMap(({ from, to, numTokens }) =>
    from === null || to === null ? [] : [{ from, to: Math.max(from, to), numTokens }],
  );
  if (timed.length === 0) return null;
  const gaps = timed.map(({ from, to }) => to - from);
  return {
    turn_gap_ms: summarize(gaps),
    within_ticket_ttl: ratio(gaps.filter((gap) => gap <= ticketTtlMs).length, gaps.length),
    ...retained(timed),
  };
}

interface Pause {
  readonly from: number;
  readonly to: number;
  readonly numTokens: number;
}

function retained(pauses: readonly Pause[]) {
  const changes = pauses
    .flatMap(({ from, to, numTokens }) => [
      { at: from, change: numTokens },
      { at: to, change: -numTokens },
    ])
    .sort((a, b) => a.at - b.at || a.change - b.change);
  let [now, peak, area] = [0, 0, 0];
  let last = changes[0]!.at;
  for (const { at, change } of changes) {
    area += now * (at - last);
    last = at;
    now += change;
    peak = Math.max(peak, now);
  }
  const duration = last - changes[0]!.at;
  return {
    peak_retained_tokens: peak,
    mean_retained_tokens: duration === 0 ? peak : Math.round(area / duration),
  };
}
