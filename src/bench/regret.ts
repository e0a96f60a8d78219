// What it cost that a node chose to pull or to compute: each turn's choice against the better one, by what the whole run measured.
import type { TurnRecord } from './turn-record.js';

interface Line {
  readonly intercept: number;
  readonly slope: number;
}

/**
 * Milliseconds beyond the better of both choices, by fits over the run; 0 = the choice was right. Absent for turns that had
 * none, and for all where the run has measured only one of both. Pulling: transfer time over tokens pulled; computing: time
 * to the first token less the transfer, over tokens computed.
 */
export function regretOf(turns: readonly TurnRecord[]): ReadonlyMap<TurnRecord, number> {
  const answered = turns.filter(({ error }) => error === null);
  const pulls = answered.filter(({ num_pulled_tokens }) => num_pulled_tokens > 0);
  const pull = fit(pulls.map((turn) => [turn.num_pulled_tokens, turn.kv_transfer_ms_d_to_p]));
  const compute = fit(
    answered.map((turn) => [turn.num_computed_tokens, (turn.ttft_ms ?? 0) - turn.kv_transfer_ms_d_to_p]),
  );
  const regrets = new Map<TurnRecord, number>();
  if (!pull || !compute) return regrets;
  for (const turn of answered) {
    if (turn.num_pullable_tokens === 0) continue;
    const pullMs = pull.intercept + pull.slope * turn.num_pullable_tokens;
    const computeMs = compute.slope * turn.num_pullable_tokens;
    const [chosenMs, otherMs] = turn.num_pulled_tokens > 0 ? [pullMs, computeMs] : [computeMs, pullMs];
    regrets.set(turn, Math.max(0, chosenMs - otherMs));
  }
  return regrets;
}

/** Least squares with neither part below 0; null without two different points. */
function fit(points: readonly (readonly [x: number, y: number])[]): Line | null {
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const x = mean(points.map(([value]) => value));
  const y = mean(points.map(([, value]) => value));
  const spread = points.reduce((sum, [value]) => sum + (value - x) ** 2, 0);
  if (points.length < 2 || spread === 0) return null;
  const slope = Math.max(0, points.reduce((sum, [px, py]) => sum + (px - x) * (py - y), 0) / spread);
  return { slope, intercept: Math.max(0, y - slope * x) };
}
