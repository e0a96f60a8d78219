// Goodput: how many turns a second met every service level objective, as vLLM's `--goodput` counts.
import { VllmPdError } from '../errors.js';
import { ratio } from './stats.js';
import type { TurnRecord } from './turn-record.js';

export const objectiveNames = ['ttft', 'tpot', 'e2el'] as const;

/** In ms; a turn is good if it takes no longer. */
export type Objectives = { readonly [Name in (typeof objectiveNames)[number]]?: number };

export interface Goodput {
  readonly objectives: Objectives;
  readonly num_good_turns: number;
  /** Of all turns played, failed ones included. */
  readonly good_ratio: number | null;
  /** Good turns a second; vLLM's name. */
  readonly request_goodput: number | null;
}

/** From `ttft:200`, `tpot:30`, each in ms. INVALID_ARGUMENT for anything else. */
export function parseObjectives(texts: readonly string[]): Objectives {
  const pairs = texts.map((text) => {
    const [name = '', value = ''] = text.split(':');
    const limit = Number(value);
    if (
      objectiveNames.some((known) => known === name) &&
      value !== '' &&
      limit > 0 &&
      Number.isFinite(limit)
    ) {
      return [name, limit] as const;
    }
    throw new VllmPdError(
      'INVALID_ARGUMENT',
      `Expected ${objectiveNames.join(', ')} with milliseconds for --goodput, such as ttft:200, but received '${text}'.`,
      { param: 'goodput' },
    );
  });
  return Object.fromEntries(pairs);
}

/** A turn of one token has no time between tokens, and meets that objective. */
export function summarizeGoodput(
  turns: readonly TurnRecord[],
  objectives: Objectives,
  durationS: number,
): Goodput {
  const meets = (value: number | null, limit: number | undefined) => (value ?? 0) <= (limit ?? Infinity);
  const numGood = turns.filter(
    ({ error, ttft_ms, tpot_ms, e2el_ms }) =>
      error === null &&
      meets(ttft_ms, objectives.ttft) &&
      meets(tpot_ms, objectives.tpot) &&
      meets(e2el_ms, objectives.e2el),
  ).length;
  return {
    objectives,
    num_good_turns: numGood,
    good_ratio: ratio(numGood, turns.length),
    request_goodput: ratio(numGood, durationS),
  };
}
