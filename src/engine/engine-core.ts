// The loop: schedule → execute → update. Sleeps on a promise when nothing can run; nothing polls.
import type { Scheduler } from '../core/scheduler.js';
import { messageOf, VllmPdError } from '../errors.js';
import { createLogger } from '../log.js';
import type { EngineCoreOutput, KVConnectorOutput, ModelRunnerOutput, SchedulerOutput } from '../outputs.js';
import type { FinishedStatus, Request } from '../request.js';
import type { CacheQueryAnswer } from '../wire.js';
import type { StepStats } from './stats.js';
import { WakeUp } from './wake-up.js';

const log = createLogger('engine');

/** The part of the model runner that the loop needs. */
export interface StepRunner {
  execute(plan: SchedulerOutput): Promise<ModelRunnerOutput>;
}

export interface EngineCoreListener {
  /** A step was planned and is about to run. */
  onPlan(plan: SchedulerOutput): void;
  onOutputs(outputs: readonly EngineCoreOutput[]): void;
  /** While a step runs: what was asked since it was planned. */
  onQueryAnswers(answers: readonly CacheQueryAnswer[]): void;
  /** After every step, with the loads that ended. */
  onStep(stats: StepStats, connectorOutput: KVConnectorOutput | null): void;
  /** The engine cannot go on; nothing will be reported any more. */
  onFatal(error: VllmPdError): void;
}

export interface EngineCoreParts {
  readonly scheduler: Scheduler;
  readonly runner: StepRunner;
  readonly listener: EngineCoreListener;
  /** The scheduler's clock, in ms. */
  readonly clock: () => number;
}

/**
 * For so long, in ms, the engine has to have slept before it looks whether its pool is whole. That goes through all
 * blocks: neither the answers just given nor who asks next is to wait for it.
 */
const checkDelayMs = 50;

export class EngineCore {
  readonly #scheduler: Scheduler;
  readonly #runner: StepRunner;
  readonly #listener: EngineCoreListener;
  readonly #wakeUp: WakeUp;
  #isExecuting = false;
  /** Nothing has happened since the pool was last found whole. */
  #isChecked = false;
  #stopping = false;
  #fatal: VllmPdError | null = null;
  #ended: Promise<void> | null = null;

  constructor({ scheduler, runner, listener, clock }: EngineCoreParts) {
    this.#scheduler = scheduler;
    this.#runner = runner;
    this.#listener = listener;
    this.#wakeUp = new WakeUp(clock);
  }

  start(): void {
    this.#ended ??= this.#run();
  }

  /** Lets the step under way end, and no other begin. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#wakeUp.wake();
    await this.#ended;
  }

  /** Why the loop ended by itself; null while it runs. */
  get fatal(): VllmPdError | null {
    return this.#fatal;
  }

  /** Throws what the scheduler throws, and INTERNAL when the loop has ended. */
  addRequest(request: Request): void {
    this.#checkRunning();
    this.#scheduler.addRequest(request);
    this.#wakeUp.wake();
  }

  /** Answers at once what was asked while a step runs; without one the next plan does, which is about to be made. */
  answerQueries(): void {
    if (this.#isExecuting) this.#listener.onQueryAnswers(this.#scheduler.answerCacheQueries());
  }

  /** Null if the request is not known (any more). */
  finishRequest(
    requestId: string,
    status: FinishedStatus,
    stopReason: number | string | null = null,
  ): EngineCoreOutput | null {
    if (this.#fatal) return null;
    const output = this.#scheduler.finishRequest(requestId, status, stopReason);
    this.#wakeUp.wake();
    return output;
  }

  releaseLease(leaseId: string): boolean {
    this.#checkRunning();
    const released = this.#scheduler.releaseLease(leaseId);
    this.#wakeUp.wake();
    return released;
  }

  /** Something outside the queues has changed: a load ended, a peer sent a notification. */
  wake(): void {
    this.#wakeUp.wake();
  }

  #checkRunning(): void {
    if (this.#fatal) throw this.#fatal;
    if (this.#stopping) throw new VllmPdError('OVERLOADED', 'The engine is shutting down.');
  }

  async #run(): Promise<void> {
    let numEmptySteps = 0;
    try {
      while (!this.#stopping) {
        // One empty step may lead to another that is not (a preemption, say); a second one means waiting for an event.
        const mayStep = this.#scheduler.hasWork() && numEmptySteps < 2;
        if (!mayStep && !this.#wakeUp.take()) {
          await this.#sleep();
          numEmptySteps = 0;
          continue;
        }
        const didAnything = await this.#step();
        if (didAnything) this.#isChecked = false;
        numEmptySteps = didAnything ? 0 : numEmptySteps + 1;
      }
      this.#check();
    } catch (cause) {
      this.#fatal = new VllmPdError('INTERNAL', `The engine has stopped: ${messageOf(cause)}`, { cause });
      log.fatal({ err: cause }, 'the engine has stopped');
      this.#listener.onFatal(this.#fatal);
    }
  }

  async #sleep(): Promise<void> {
    let failure: { readonly cause: unknown } | null = null;
    const check = () => {
      try {
        this.#check();
      } catch (cause) {
        failure = { cause };
        this.#wakeUp.wake();
      }
    };
    const timer = this.#isChecked ? undefined : setTimeout(check, checkDelayMs);
    await this.#wakeUp.sleep(this.#scheduler.nextDeadlineMs());
    clearTimeout(timer);
    if (failure) throw (failure as { readonly cause: unknown }).cause;
  }

  /** Throws INTERNAL when the pool is not whole; looks only where no request is under way. */
  #check(): void {
    if (this.#isChecked || this.#scheduler.hasUnfinishedRequests()) return;
    this.#scheduler.checkInvariants();
    this.#isChecked = true;
  }

  /** True if the step did anything. */
  async #step(): Promise<boolean> {
    this.#wakeUp.take();
    const plan = this.#scheduler.schedule();
    this.#listener.onPlan(plan);
    this.#isExecuting = true;
    const result = await this.#execute(plan);
    this.#isExecuting = false;
    const outputs = this.#scheduler.updateFromOutput(plan, result);
    this.#listener.onOutputs(outputs);
    this.#listener.onStep(this.#scheduler.stepStats, result.kvConnectorOutput);
    const { totalNumScheduledTokens, kvConnectorMetadata } = plan;
    return (
      totalNumScheduledTokens > 0 ||
      kvConnectorMetadata !== null ||
      outputs.length > 0 ||
      result.kvConnectorOutput !== null
    );
  }

  /** A forward pass that fails takes down the requests that were in it, and nothing else, unless the GPU is lost. */
  async #execute(plan: SchedulerOutput): Promise<ModelRunnerOutput> {
    try {
      return await this.#runner.execute(plan);
    } catch (error) {
      // Nothing ran, so this is no fault of a request; going on would fail in the same way for ever.
      if (plan.scheduled.length === 0) throw error;
      log.error({ err: error }, 'a step failed');
      const reason = `The model failed: ${messageOf(error)}`;
      const outputs = plan.scheduled.flatMap(({ request }) => {
        const output = this.#scheduler.finishRequest(request.requestId, 'FINISHED_ERROR');
        return output ? [{ ...output, error: reason }] : [];
      });
      this.#listener.onOutputs(outputs);
      // Every other step would fail as well: whoever watches the node is to see that it is of no use.
      if (error instanceof VllmPdError && error.code === 'DEVICE_LOST') throw error;
      // What the connector has to report was not collected.
      this.#wakeUp.wake();
      return {
        sampledTokenIds: new Map(),
        logprobs: new Map(),
        promptLogprobs: new Map(),
        kvConnectorOutput: null,
      };
    }
  }
}
