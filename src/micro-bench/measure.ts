// Measures one row and its limit in turns, so that what else the machine does hits both alike.
import { quantile } from 'simple-statistics';
import { Bench } from 'tinybench';
import type { KernelRow } from './kernel-row.js';
import type { RowPlan, Work } from './row-plan.js';
import { judge } from './target.js';

/** Subject and limit change places this often. */
const numTurns = 4;

export interface MeasureOptions {
  /** Of the row and its limit together. At least one round of each is measured in every turn. */
  readonly timeMs: number;
}

export async function measureRow(
  family: string,
  plan: RowPlan,
  { timeMs }: MeasureOptions,
): Promise<KernelRow> {
  const contest = await plan.prepare();
  try {
    const subject: number[] = [];
    const limit: number[] = [];
    for (let turn = 0; turn < numTurns; turn += 1) {
      const isFirst = turn === 0;
      const ms = timeMs / numTurns / 2;
      subject.push(...(await sample(contest.subject, ms, isFirst)));
      limit.push(...(await sample(contest.limit, ms, isFirst)));
    }
    return toRow(family, plan, contest, subject, limit);
  } finally {
    await contest.close();
  }
}

/** Milliseconds of each round. */
async function sample(work: Work, timeMs: number, warmup: boolean): Promise<readonly number[]> {
  const bench = new Bench({
    time: timeMs,
    iterations: 1,
    warmup,
    warmupTime: timeMs,
    warmupIterations: 1,
    retainSamples: true,
    throws: true,
  });
  const before = work.before?.bind(work);
  const run = async () => {
    await work.run();
  };
  // Said beforehand, for otherwise it is found out by a call whose promise nobody waits for.
  bench.add('work', run, { async: true, ...(before && { beforeEach: before }) });
  const [task] = await bench.run();
  const result = task?.result;
  if (result?.state !== 'completed')
    throw new Error(`Expected a completed measurement but it is ${result?.state}`);
  return result.latency.samples ?? [];
}

function toRow(
  family: string,
  { name, threads, unit, limit, asked }: RowPlan,
  contest: { readonly subject: Work; readonly limit: Work },
  ms: readonly number[],
  limitMs: readonly number[],
): KernelRow {
  const at = (sample: readonly number[], p: number) => quantile([...sample], p);
  const value = (contest.subject.amount / at(ms, 0.5)) * 1000;
  const limitValue = (contest.limit.amount / at(limitMs, 0.5)) * 1000;
  const ratio = value / limitValue;
  const measured = { unit, value, ratio, ms: at(ms, 0.5), limitMs: at(limitMs, 0.5) };
  return {
    family,
    name,
    threads,
    unit,
    value: rounded(value),
    limit,
    limit_value: rounded(limitValue),
    ratio: rounded(ratio),
    ...(asked ? judge(asked, measured) : { asked: null, reached: null, is_reached: null }),
    ms_p25: rounded(at(ms, 0.25)),
    ms_p50: rounded(at(ms, 0.5)),
    ms_p75: rounded(at(ms, 0.75)),
    num_rounds: ms.length,
    limit_ms_p25: rounded(at(limitMs, 0.25)),
    limit_ms_p50: rounded(at(limitMs, 0.5)),
    limit_ms_p75: rounded(at(limitMs, 0.75)),
    num_limit_rounds: limitMs.length,
  };
}

/** Five significant digits. */
function rounded(value: number): number {
  return Number(value.toPrecision(5));
}
