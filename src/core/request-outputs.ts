// What the engine is told about one request: a token, an answer to its cache query, its end.
import type { EngineCoreOutput } from '../outputs.js';
import type { Request } from '../request.js';
import type { CacheQueryAnswer } from '../wire.js';

/** Nothing new, and going on. */
export const ongoing = {
  newTokenIds: [],
  newLogprobs: [],
  promptLogprobs: null,
  finished: null,
  stopReason: null,
  kvTransferParams: null,
  prefillStats: null,
  cacheQueryAnswer: null,
  error: null,
} as const satisfies Omit<EngineCoreOutput, 'requestId'>;

export function tokenOutput(
  { requestId, prefillStats }: Request,
  newTokenIds: EngineCoreOutput['newTokenIds'],
  newLogprobs: EngineCoreOutput['newLogprobs'],
  promptLogprobs: EngineCoreOutput['promptLogprobs'],
): EngineCoreOutput {
  // Spelt out: spreading costs some microseconds, and this is made for every token.
  return {
    requestId,
    newTokenIds,
    newLogprobs,
    promptLogprobs,
    finished: null,
    stopReason: null,
    kvTransferParams: null,
    prefillStats,
    cacheQueryAnswer: null,
    error: null,
  };
}

export function answerOutput(answer: CacheQueryAnswer): EngineCoreOutput {
  return {
    ...ongoing,
    requestId: answer.request_id,
    finished: 'FINISHED_STOPPED',
    kvTransferParams: answer.kv_transfer_params,
    cacheQueryAnswer: answer,
  };
}
