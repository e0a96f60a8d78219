// A chaos run in a few numbers: kept as summary.json, and the headline.
import type { ChaosRun } from './chaos-run.js';
import { isClean, type SoakReport } from './soak.js';

export interface ChaosSummary {
  readonly id: string;
  readonly bench: 'chaos';
  readonly seed: number;
  readonly store: string;
  /** No wrong token, nothing lost, every pool whole. */
  readonly clean: boolean;
  /** Every turn that was asked for was played. */
  readonly complete: boolean;
  readonly num_turns: number;
  readonly num_faults: number;
  readonly num_failed_attempts: number;
  readonly num_wrong: number;
  readonly num_lost: number;
  readonly num_leaks: number;
  readonly duration_s: number;
  /** Faults that struck, by kind, over all soaks. */
  readonly faults: Readonly<Record<string, number>>;
  readonly soaks: readonly SoakOutcome[];
}

export interface SoakOutcome
  extends Pick<SoakReport, 'name' | 'num_turns' | 'num_faults' | 'complete' | 'duration_s'> {
  readonly clean: boolean;
}

export function summarizeChaos({ id, seed, store, soaks }: ChaosRun): ChaosSummary {
  const total = (count: (soak: SoakReport) => number) => soaks.reduce((sum, soak) => sum + count(soak), 0);
  const kinds = [...new Set(soaks.flatMap(({ faults }) => Object.keys(faults)))].toSorted();
  return {
    id,
    bench: 'chaos',
    seed,
    store,
    clean: soaks.every(isClean),
    complete: soaks.every(({ complete }) => complete),
    num_turns: total((soak) => soak.num_turns),
    num_faults: total((soak) => soak.num_faults),
    num_failed_attempts: total((soak) => soak.num_failed_attempts),
    num_wrong: total((soak) => soak.wrong.length),
    num_lost: total((soak) => soak.lost.length),
    num_leaks: total((soak) => soak.leaks.length),
    duration_s: Math.round(total((soak) => soak.duration_s) * 10) / 10,
    faults: Object.fromEntries(kinds.map((kind) => [kind, total(({ faults }) => faults[kind] ?? 0)])),
    soaks: soaks.map((soak) => ({
      name: soak.name,
      num_turns: soak.num_turns,
      num_faults: soak.num_faults,
      complete: soak.complete,
      duration_s: soak.duration_s,
      clean: isClean(soak),
    })),
  };
}
