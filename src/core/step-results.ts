// What a step's result makes of a request that ran in it: blocks that are whole, the sampled token, and whether it stops.
import { VllmPdError } from '../errors.js';
import type { EngineCoreOutput, ModelRunnerOutput, ScheduledRequest } from '../outputs.js';
import type { Request } from '../request.js';
import type { KVCacheManager } from './kv-cache-manager.js';
import type { PrefillTracker } from './prefill-tracker.js';
import { PromptLogprobs } from './prompt-logprobs.js';
import type { Ending } from './request-ends.js';
import { ongoing, tokenOutput } from './request-outputs.js';
import { checkStop } from './stop.js';

export interface StepResultsInit {
  readonly kvCache: KVCacheManager;
  readonly prefills: PrefillTracker;
  readonly blockSize: number;
  /** Of prompt and answer together. */
  readonly maxTokens: number;
  /** Ends a request; returns its last output, without new tokens. */
  readonly finish: (request: Request, ending: Ending) => EngineCoreOutput;
}

export class StepResults {
  readonly #init: StepResultsInit;
  readonly #promptLogprobs = new PromptLogprobs();

  constructor(init: StepResultsInit) {
    this.#init = init;
  }

  /**
   * The step's tokens have KV now; takes the sampled one, and adds to `grown` who has a block more to be hashed. Null for
   * a prompt that is not through yet.
   */
  advance(scheduled: ScheduledRequest, result: ModelRunnerOutput, grown: Request[]): EngineCoreOutput | null {
    const { request } = scheduled;
    const { needsPromptLogprobs } = request;
    if (needsPromptLogprobs) {
      const entries = result.promptLogprobs.get(request.requestId) ?? [];
      this.#promptLogprobs.record(request, scheduled.numComputedTokens + 1, entries);
    }
    const { numComputedTokens } = request;
    // Most steps of an answer complete no block.
    if (this.#hasBlockEnd(scheduled.numComputedTokens, numComputedTokens)) {
      this.#init.kvCache.cacheBlocks(request, numComputedTokens);
    }
    if (request.prefillStats === null && numComputedTokens >= request.numPromptTokens) {
      request.prefillStats = this.#init.prefills.completed(request);
    }
    if (!scheduled.samples) return null;
    const tokenId = result.sampledTokenIds.get(request.requestId);
    if (tokenId === undefined) {
      throw new VllmPdError(
        'INTERNAL',
        `Expected a sampled token for request ${request.requestId} but there is none`,
      );
    }
    request.tokenIds.push(tokenId);
    if (request.numTokens % this.#init.blockSize === 0) grown.push(request);
    const stop = checkStop(request, this.#init.maxTokens);
    const logprobs = result.logprobs.size > 0 ? result.logprobs.get(request.requestId) : undefined;
    const newLogprobs = logprobs ? [logprobs] : ongoing.newLogprobs;
    // Who samples has run its whole prompt.
    const promptLogprobs = needsPromptLogprobs ? this.#promptLogprobs.take(request) : null;
    if (stop) {
      return { ...this.#init.finish(request, stop), newTokenIds: [tokenId], newLogprobs, promptLogprobs };
    }
    return tokenOutput(request, [tokenId], newLogprobs, promptLogprobs);
  }

  /** True if a block ends behind `begin` and no later than `end`, in tokens. */
  #hasBlockEnd(begin: number, end: number): boolean {
    const { blockSize } = this.#init;
    return end - (end % blockSize) > begin;
  }
}
