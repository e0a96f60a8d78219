// Turns and tokens a second of one mode, over the time in which that mode was at work.
import { ratio } from './stats.js';
import type { TurnRecord } from './turn-record.js';

/** vLLM's names, without its "total" for prompt and answer together. */
export interface Throughput {
  /** Seconds that the rates are over. */
  readonly duration_s: number;
  /** Turns a second. */
  readonly request_throughput: number | null;
  /** Answers' tokens a second. */
  readonly output_throughput: number | null;
  /** Prompts' and answers' tokens a second. */
  readonly total_token_throughput: number | null;
}

export function summarizeThroughput(answered: readonly TurnRecord[]): Throughput {
  const durationS = Math.round(secondsAtWork(answered) * 1e6) / 1e6;
  const numOutput = answered.reduce((sum, turn) => sum + turn.num_output_tokens, 0);
  const numPrompt = answered.reduce((sum, turn) => sum + turn.num_prompt_tokens, 0);
  return {
    duration_s: durationS,
    request_throughput: ratio(answered.length, durationS),
    output_throughput: ratio(numOutput, durationS),
    total_token_throughput: ratio(numPrompt + numOutput, durationS),
  };
}

/**
 * In an open loop from the first turn sent to the last token, pauses included, since they are part of the load. In a closed
 * loop the modes take turns: only the time in which a turn of this one was under way counts.
 */
function secondsAtWork(answered: readonly TurnRecord[]): number {
  const spans = answered
    .map((turn) => [turn.start_time_ms, turn.start_time_ms + (turn.e2el_ms ?? 0)] as const)
    .sort(([a], [b]) => a - b);
  const isOpenLoop = answered.some((turn) => turn.planned_start_ms != null);
  let ms = 0;
  let end = spans[0]?.[0] ?? 0;
  for (const [from, to] of spans) {
    ms += Math.max(0, to - (isOpenLoop ? end : Math.max(end, from)));
    end = Math.max(end, to);
  }
  return ms / 1000;
}
