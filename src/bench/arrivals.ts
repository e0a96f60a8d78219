// Open loop: when each turn is to be sent, whatever has become of those before. A pure function of workload and seed.
import { z } from 'zod';
import { VllmPdError } from '../errors.js';
import type { Conversation } from './conversation.js';
import { Random } from './random.js';

export const arrivalSchema = z.union([
  z.strictObject({
    /** Turns a second, all conversations together. */
    request_rate: z.number().positive(),
    /** Shape of the gamma distribution of gaps: 1 = a Poisson process, less = bursts, more = even. */
    burstiness: z.number().positive().default(1),
  }),
  /** The dataset's own times, all gaps times this. */
  z.strictObject({ time_scale: z.number().positive() }),
]);

export type Arrival = z.infer<typeof arrivalSchema>;

export interface PlannedTurn {
  /** Index of its conversation. */
  readonly conversation: number;
  /** From 1. */
  readonly turn: number;
  /** Since the first turn of all. */
  readonly plannedMs: number;
}

/**
 * At most `limit` turns, in the order in which they are due. INVALID_ARGUMENT when the conversations have no times of
 * their own to go by.
 */
export function planArrivals(
  arrival: Arrival,
  conversations: readonly Conversation[],
  { seed, limit }: { readonly seed: number; readonly limit: number | null },
): PlannedTurn[] {
  return 'time_scale' in arrival
    ? byTraceTimes(arrival.time_scale, conversations).slice(0, limit ?? undefined)
    : byRate(
        arrival.request_rate,
        arrival.burstiness,
        inRounds(conversations).slice(0, limit ?? undefined),
        seed,
      );
}

export type UnplannedTurn = Omit<PlannedTurn, 'plannedMs'>;

/** All first turns, then all second ones and so on, as in a closed loop. */
export function inRounds(conversations: readonly { readonly turns: readonly unknown[] }[]): UnplannedTurn[] {
  const numRounds = Math.max(0, ...conversations.map(({ turns }) => turns.length));
  return Array.from({ length: numRounds }, (_, round) =>
    conversations.flatMap(({ turns }, conversation) =>
      round < turns.length ? [{ conversation, turn: round + 1 }] : [],
    ),
  ).flat();
}

/**
 * Gaps are drawn from a gamma distribution and then stretched so that all turns together take as long as the rate says:
 * vLLM's `--request-rate` and `--burstiness`.
 */
function byRate(
  rate: number,
  burstiness: number,
  turns: readonly UnplannedTurn[],
  seed: number,
): PlannedTurn[] {
  const random = new Random(seed, 'arrivals');
  let at = 0;
  const ends = turns.map(() => {
    at += random.gamma(burstiness);
    return at;
  });
  const stretch = at === 0 ? 0 : ((turns.length / rate) * 1000) / at;
  return turns.map((turn, i) => ({ ...turn, plannedMs: ends[i]! * stretch }));
}

function byTraceTimes(scale: number, conversations: readonly Conversation[]): PlannedTurn[] {
  const planned = conversations.flatMap(({ id, turns }, conversation) => {
    let latest = Number.NEGATIVE_INFINITY;
    return turns.map(({ arrivalMs }, i) => {
      if (arrivalMs === null || arrivalMs === undefined) throw noTimes(id);
      // A turn that the trace has before its predecessor comes right behind that.
      latest = Math.max(latest, arrivalMs);
      return { conversation, turn: i + 1, plannedMs: latest };
    });
  });
  const first = planned.reduce(
    (least, { plannedMs }) => Math.min(least, plannedMs),
    Number.POSITIVE_INFINITY,
  );
  return planned
    .map((turn) => ({ ...turn, plannedMs: (turn.plannedMs - first) * scale }))
    .sort((a, b) => a.plannedMs - b.plannedMs || a.turn - b.turn);
}

function noTimes(id: string): VllmPdError {
  return new VllmPdError(
    'INVALID_ARGUMENT',
    `Expected a dataset with timestamps for --time-scale, but conversation ${id} has none.`,
    { param: 'time-scale', suggestions: ['--request-rate sets times of its own.'] },
  );
}
