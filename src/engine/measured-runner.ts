// Times every step of the model, for what computing a token costs on this node.
import type { TransferCosts } from '../kv-transfer/cost-model.js';
import type { ModelRunnerOutput, SchedulerOutput } from '../outputs.js';
import type { StepRunner } from './engine-core.js';

/** Steps of fewer tokens mostly decode, at another rate. */
const minTokens = 16;

export class MeasuredRunner implements StepRunner {
  readonly #runner: StepRunner;
  readonly #costs: Pick<TransferCosts, 'observePrefill'>;
  readonly #clock: () => number;

  constructor(runner: StepRunner, costs: Pick<TransferCosts, 'observePrefill'>, clock: () => number) {
    this.#runner = runner;
    this.#costs = costs;
    this.#clock = clock;
  }

  async execute(plan: SchedulerOutput): Promise<ModelRunnerOutput> {
    const startedAtMs = this.#clock();
    const output = await this.#runner.execute(plan);
    const { totalNumScheduledTokens, scheduled } = plan;
    // Log probabilities of prompts take longer than the tokens.
    const isUsual = () => !scheduled.some(({ request }) => request.needsPromptLogprobs);
    if (totalNumScheduledTokens >= minTokens && isUsual()) {
      this.#costs.observePrefill(totalNumScheduledTokens, this.#clock() - startedAtMs);
    }
    return output;
  }
}
