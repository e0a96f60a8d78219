// Engines on the tiny model for tests: started with options, used, checked for leaks, shut down.
import { randomUUID } from 'node:crypto';
import * as assert from 'uvu/assert';
import type { NodeRole } from '../../src/config.js';
import { Engine, type GenerateInput } from '../../src/engine/engine.js';
import type { RequestOutput } from '../../src/engine/request-output.js';
import { completeEngineConfig, type EngineOptions } from '../../src/engine-options.js';
import { resolveModel } from '../../src/model/resolve-model.js';
import type { SamplingParams } from '../../src/request.js';

export interface TestEngineOptions extends EngineOptions {
  readonly role?: NodeRole;
}

export async function startEngine({ role = 'both', ...options }: TestEngineOptions = {}): Promise<Engine> {
  const modelPath = await resolveModel('tiny', options);
  const config = completeEngineConfig(
    { numThreads: 1, servedModelName: 'tiny', ...options, cache: { numBlocks: 128, ...options.cache } },
    { modelPath, engineId: randomUUID(), role },
  );
  return Engine.start(config);
}

/** Every block is free or the null block, and nothing is queued, held or under way; waits for what is on its way. */
export async function assertWhole(engine: Engine): Promise<void> {
  const whole = () => {
    const state = engine.state();
    const { numBlocks, numFreeBlocks, numRunning, numWaiting, numHolds, numPendingLoads } = state;
    return numFreeBlocks + 1 === numBlocks && numRunning + numWaiting + numHolds + numPendingLoads === 0;
  };
  for (let i = 0; i < 100 && !whole(); i++) await sleep(10);
  assert.ok(whole(), JSON.stringify(engine.state()));
}

/** The engine is whole again behind the body, and gone behind the call. */
export async function withEngine(
  options: TestEngineOptions,
  body: (engine: Engine) => Promise<void>,
): Promise<void> {
  const engine = await startEngine(options);
  try {
    await body(engine);
    await assertWhole(engine);
  } finally {
    await engine.shutdown();
  }
  assert.is(engine.fatal, null);
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}

/** Greedy and of a given length unless told otherwise. */
export function sampling(params: Partial<SamplingParams> = {}): Partial<SamplingParams> {
  return { temperature: 0, ignoreEos: true, maxTokens: 32, ...params };
}

export interface Generated {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly pieces: readonly RequestOutput[];
  readonly last: RequestOutput;
}

export async function generate(
  engine: Engine,
  promptTokenIds: readonly number[],
  params: Partial<SamplingParams> = {},
  input: Partial<GenerateInput> = {},
): Promise<Generated> {
  const pieces: RequestOutput[] = [];
  const stream = engine.generate({ promptTokenIds, samplingParams: sampling(params), ...input });
  for await (const piece of stream) pieces.push(piece);
  return {
    text: pieces.map((piece) => piece.text).join(''),
    tokenIds: pieces.flatMap((piece) => piece.tokenIds),
    pieces,
    last: pieces.at(-1)!,
  };
}

/** Prompts of a given length that share no block. */
export function prompt(length: number, label = 1): number[] {
  return Array.from({ length }, (_, i) => 300 + ((i * 7919 + label * 104_729) % 3000));
}
