// The loop between scheduler and model: when it steps, sleeps and gives up.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Scheduler } from '../../src/core/scheduler.js';
import { EngineCore, type EngineCoreListener } from '../../src/engine/engine-core.js';
import { completeEngineConfig } from '../../src/engine-options.js';
import { VllmPdError } from '../../src/errors.js';
import type { EngineCoreOutput, ModelRunnerOutput, SchedulerOutput } from '../../src/outputs.js';
import { defaultSamplingParams, Request } from '../../src/request.js';
import type { CacheQueryAnswer } from '../../src/wire.js';

const clock = () => performance.now();

/** Samples token 7 for everybody, without a model. */
async function execute(plan: SchedulerOutput): Promise<ModelRunnerOutput> {
  await new Promise(setImmediate);
  const samples = plan.scheduled.filter((entry) => entry.samples);
  return {
    sampledTokenIds: new Map(samples.map(({ request }) => [request.requestId, 7])),
    logprobs: new Map(),
    promptLogprobs: new Map(),
    kvConnectorOutput: null,
  };
}

class TestCore implements EngineCoreListener {
  readonly scheduler: Scheduler;
  readonly core: EngineCore;
  readonly outputs: EngineCoreOutput[] = [];
  readonly plans: SchedulerOutput[] = [];
  readonly answers: CacheQueryAnswer[] = [];
  numSteps = 0;
  fatal: Error | null = null;

  constructor(runner: (plan: SchedulerOutput) => Promise<ModelRunnerOutput> = execute) {
    const { cache, scheduler } = completeEngineConfig(
      { cache: { numBlocks: 16 } },
      { modelPath: '', engineId: 'e', role: 'both' },
    );
    const sink = { publish: () => {}, retract: () => {} };
    this.scheduler = new Scheduler({ engineId: 'e', cache, scheduler, connector: null, sink, clock });
    this.core = new EngineCore({
      scheduler: this.scheduler,
      runner: { execute: runner },
      listener: this,
      clock,
    });
    this.core.start();
  }

  add(requestId: string, maxTokens = 3): void {
    const samplingParams = { ...defaultSamplingParams, maxTokens };
    this.core.addRequest(new Request({ requestId, promptTokenIds: [1, 2, 3], samplingParams }, clock()));
  }

  async ended(requestId: string): Promise<EngineCoreOutput> {
    for (let i = 0; i < 1000; i++) {
      const last = this.outputs.find((output) => output.requestId === requestId && output.finished);
      if (last) return last;
      await new Promise(setImmediate);
    }
    throw new Error(`${requestId} did not end`);
  }

  onPlan(plan: SchedulerOutput): void {
    this.plans.push(plan);
  }

  onOutputs(outputs: readonly EngineCoreOutput[]): void {
    this.outputs.push(...outputs);
  }

  onQueryAnswers(answers: readonly CacheQueryAnswer[]): void {
    this.answers.push(...answers);
  }

  onStep(): void {
    this.numSteps++;
  }

  onFatal(error: Error): void {
    this.fatal = error;
  }
}

test('requests run to their end, and then the loop sleeps', async () => {
  const core = new TestCore();
  core.add('a');
  core.add('b', 5);
  assert.is((await core.ended('b')).finished, 'FINISHED_LENGTH_CAPPED');
  await new Promise((resolve) => setTimeout(resolve, 20));
  const { numSteps } = core;
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.is(core.numSteps, numSteps, 'no step while there is nothing to do');
  core.scheduler.assertEmpty();
  await core.core.stop();
});

test('a failed step fails the requests in it, and the ones after it run', async () => {
  let isBroken = true;
  const core = new TestCore(async (plan) => {
    if (isBroken && plan.scheduled.length > 0) throw new Error('kernel fault');
    return execute(plan);
  });
  core.add('a');
  const ended = await core.ended('a');
  assert.is(ended.finished, 'FINISHED_ERROR');
  assert.is(ended.error, 'The model failed: kernel fault');
  isBroken = false;
  core.add('b');
  assert.is((await core.ended('b')).finished, 'FINISHED_LENGTH_CAPPED');
  core.scheduler.assertEmpty();
  await core.core.stop();
});

test('a lost GPU fails the requests in the step and ends the loop', async () => {
  const core = new TestCore(async (plan) => {
    if (plan.scheduled.length > 0) throw new VllmPdError('DEVICE_LOST', 'The GPU is gone.');
    return execute(plan);
  });
  core.add('a');
  assert.is((await core.ended('a')).error, 'The model failed: The GPU is gone.');
  for (let i = 0; i < 100 && !core.fatal; i++) await new Promise(setImmediate);
  assert.match(core.fatal!.message, 'The GPU is gone.');
  assert.throws(() => core.add('b'), /The engine has stopped/);
  await core.core.stop();
});

test('a request that is aborted while its step runs leaves nothing behind', async () => {
  const core: TestCore = new TestCore(async (plan) => {
    core.core.finishRequest('a', 'FINISHED_ABORTED');
    return execute(plan);
  });
  core.add('a');
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.is(core.outputs.length, 0);
  core.scheduler.assertEmpty();
  await core.core.stop();
});

test('a cache query is answered while a step runs, with what was cached before it', async () => {
  let release = () => {};
  let isRunning = false;
  const core = new TestCore(async (plan) => {
    if (plan.scheduled.length > 0 && !isRunning) {
      isRunning = true;
      await new Promise<void>((resolve) => {
        release = resolve;
      });
    }
    return execute(plan);
  });
  const query = (requestId: string, promptTokenIds: readonly number[]) => {
    const cacheQuery = { lease: false };
    const init = { requestId, promptTokenIds, cacheQuery, samplingParams: defaultSamplingParams };
    core.core.addRequest(new Request(init, clock()));
    core.core.answerQueries();
  };
  core.add('a');
  while (!isRunning) await new Promise(setImmediate);
  query('q', [1, 2, 3]);
  assert.equal(
    core.answers.map(({ request_id, num_tokens }) => [request_id, num_tokens]),
    [['q', 0]],
  );
  release();
  await core.ended('a');
  assert.is(core.outputs.filter(({ requestId }) => requestId === 'q').length, 1);
  // The loop sleeps.
  await new Promise((resolve) => setTimeout(resolve, 20));
  query('r', [1, 2, 3]);
  await core.ended('r');
  assert.is(
    core.plans.at(-1)!.cacheQueryAnswers.length,
    1,
    'without a step under way, the next plan answers',
  );
  core.scheduler.assertEmpty();
  await core.core.stop();
});

test('a step that fails without running anything ends the loop instead of failing for ever', async () => {
  const core = new TestCore(() => Promise.reject(new Error('broken connector')));
  core.add('a');
  for (let i = 0; i < 100 && !core.fatal; i++) await new Promise(setImmediate);
  assert.match(core.fatal!.message, 'broken connector');
  await core.core.stop();
});

test('a fault of the scheduler ends the loop, is told, and refuses what comes after', async () => {
  // A step without the token that it was planned for breaks the scheduler's contract.
  const core = new TestCore(async () => ({
    sampledTokenIds: new Map(),
    logprobs: new Map(),
    promptLogprobs: new Map(),
    kvConnectorOutput: null,
  }));
  core.add('a');
  for (let i = 0; i < 100 && !core.fatal; i++) await new Promise(setImmediate);
  assert.match(core.fatal!.message, 'The engine has stopped');
  assert.throws(() => core.add('b'), /The engine has stopped/);
  await core.core.stop();
});

test('stopping lets the step under way end and refuses new requests', async () => {
  const core = new TestCore();
  core.add('a', 100);
  await core.core.stop();
  assert.throws(() => core.add('b'), /shutting down/);
  const { numSteps } = core;
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.is(core.numSteps, numSteps);
});

test('cache queries are answered without a token scheduled', async () => {
  const core = new TestCore();
  core.core.addRequest(
    new Request(
      {
        requestId: 'q',
        promptTokenIds: [1, 2, 3],
        samplingParams: defaultSamplingParams,
        cacheQuery: { lease: false },
      },
      clock(),
    ),
  );
  const { cacheQueryAnswer } = await core.ended('q');
  assert.is(cacheQueryAnswer!.num_tokens, 0);
  assert.equal(
    core.plans.map((plan) => plan.totalNumScheduledTokens),
    [0],
  );
  await core.core.stop();
});

/** Fails the check by a block that nobody uses and that is not free. */
function breakPool(core: TestCore): void {
  core.scheduler.checkInvariants = () => {
    throw new VllmPdError('INTERNAL', 'Block 3 is lost.');
  };
}

test('the pool is looked at when the loop has slept for a while, not before an answer is out', async () => {
  const core = new TestCore();
  let numChecks = 0;
  core.scheduler.checkInvariants = () => {
    numChecks += 1;
  };
  core.add('a');
  await core.ended('a');
  await new Promise(setImmediate);
  assert.is(numChecks, 0);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.is(numChecks, 1);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.is(numChecks, 1, 'nothing has happened since');
  core.add('b');
  await core.ended('b');
  await core.core.stop();
  assert.is(numChecks, 2, 'who stops looks as well');
});

test('a pool that is not whole ends the loop', async () => {
  const core = new TestCore();
  breakPool(core);
  core.add('a');
  await core.ended('a');
  assert.is(core.fatal, null);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.match(core.fatal!.message, 'Block 3 is lost.');
  assert.throws(() => core.add('b'), /The engine has stopped/);
  await core.core.stop();
});

test.run();
