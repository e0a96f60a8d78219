// When one request was queued, scheduled, and gave its tokens; reported to the stat loggers.
import type { FinishedStatus, Request } from '../request.js';
import type { PrefillStats } from '../wire.js';
import type { SampleGroup } from './sample-group.js';
import type { FinishedRequestStats, StatLogger } from './stats.js';

export class RequestTimer {
  readonly #request: Request;
  readonly #loggers: readonly StatLogger[];
  readonly #samples: SampleGroup;
  #scheduledMs: number | null = null;
  #firstTokenMs: number | null = null;
  #lastTokenMs: number | null = null;

  /** All times are on the clock of `request.arrivalTimeMs`. */
  constructor(request: Request, loggers: readonly StatLogger[], samples: SampleGroup) {
    this.#request = request;
    this.#loggers = loggers;
    this.#samples = samples;
  }

  scheduled(nowMs: number): void {
    this.#scheduledMs ??= nowMs;
  }

  token(nowMs: number): void {
    if (this.#firstTokenMs === null) {
      this.#firstTokenMs = nowMs;
      for (const logger of this.#loggers) logger.recordTimeToFirstToken(nowMs - this.#request.arrivalTimeMs);
    } else {
      for (const logger of this.#loggers) logger.recordInterTokenLatency(nowMs - this.#lastTokenMs!);
    }
    this.#lastTokenMs = nowMs;
  }

  finished(
    nowMs: number,
    status: FinishedStatus,
    numTokens: number,
    prefillStats: PrefillStats | null,
  ): void {
    const { arrivalTimeMs, numPromptTokens, samplingParams } = this.#request;
    const stats: FinishedRequestStats = {
      finished: status,
      numPromptTokens,
      numGenerationTokens: numTokens,
      maxTokens: samplingParams.maxTokens,
      queuedMs: span(arrivalTimeMs, this.#scheduledMs),
      prefillMs: span(this.#scheduledMs, this.#firstTokenMs),
      decodeMs: span(this.#firstTokenMs, this.#lastTokenMs),
      timeToFirstTokenMs: span(arrivalTimeMs, this.#firstTokenMs),
      e2eMs: nowMs - arrivalTimeMs,
      prefillStats,
      call: this.#samples.ended(numTokens),
    };
    for (const logger of this.#loggers) logger.recordFinished(stats);
  }
}

function span(fromMs: number | null, toMs: number | null): number | null {
  return fromMs === null || toMs === null ? null : toMs - fromMs;
}
