// One step while it is being planned: who runs how many tokens, and what is left of the budget.
import type { ScheduledRequest } from '../outputs.js';
import type { Request } from '../request.js';

export class StepPlan {
  readonly scheduled: ScheduledRequest[] = [];
  numPreemptions = 0;
  readonly #budget: number;
  #numTokensLeft: number;
  #numPromptLogprobsLeft: number;

  /** `maxPromptLogprobs`: tokens of requests that need log probabilities of their prompt; each is a row of logits. */
  constructor(budget: number, maxPromptLogprobs = Number.POSITIVE_INFINITY) {
    this.#budget = budget;
    this.#numTokensLeft = budget;
    this.#numPromptLogprobsLeft = maxPromptLogprobs;
  }

  get numTokens(): number {
    return this.#budget - this.#numTokensLeft;
  }

  get hasBudget(): boolean {
    return this.#numTokensLeft > 0;
  }

  /** How many of the request's tokens behind the first `numComputedTokens` fit in the budget; 0 = none in this step. */
  share(request: Request, numComputedTokens: number): number {
    const numTokens = Math.min(request.numTokens - numComputedTokens, this.#numTokensLeft);
    return request.needsPromptLogprobs ? Math.min(numTokens, this.#numPromptLogprobsLeft) : numTokens;
  }

  /** `numComputedTokens` moves on at once, as if the step had run. */
  add(request: Request, numScheduledTokens: number, blockIds: readonly number[]): void {
    const { numComputedTokens } = request;
    request.numComputedTokens += numScheduledTokens;
    this.#numTokensLeft -= numScheduledTokens;
    if (request.needsPromptLogprobs) this.#numPromptLogprobsLeft -= numScheduledTokens;
    this.scheduled.push({
      request,
      numComputedTokens,
      numScheduledTokens,
      blockIds,
      samples: request.numComputedTokens === request.numTokens,
    });
  }
}
