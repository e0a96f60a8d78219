// Carries out one step's plan: starts KV loads, runs the model, samples, collects what the loads came to.
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { KVConnectorWorker } from '../kv-transfer/connector.js';
import type { Model } from '../model/model.js';
import type { KvPool } from '../native/kv-pool.js';
import type { SampledForward } from '../native/model.js';
import type { ModelRunnerOutput, ScheduledRequest, SchedulerOutput, TokenLogprobs } from '../outputs.js';
import { samplingRequests, toForwardInput } from './input-batch.js';
import { checkDrawn, type Sampler } from './sampler.js';

/** Sampling of many requests gives way to the event loop after this long, in ms. */
const sliceMs = 4;

export interface ModelRunnerParts {
  readonly model: Model;
  readonly pool: KvPool;
  readonly sampler: Sampler;
  readonly connector: KVConnectorWorker | null;
}

type Sampled = Omit<ModelRunnerOutput, 'kvConnectorOutput'>;

export class ModelRunner {
  readonly #parts: ModelRunnerParts;

  constructor(parts: ModelRunnerParts) {
    this.#parts = parts;
  }

  /** One call at a time. Rejects only when the forward pass or sampling fails; failed loads are part of the output. */
  async execute(plan: SchedulerOutput): Promise<ModelRunnerOutput> {
    const { connector } = this.#parts;
    // First of all: the model runs on threads of its own, and meanwhile loads are started and peers are told.
    const sampling = plan.totalNumScheduledTokens > 0 ? this.#forward(plan) : nothingSampled();
    if (plan.kvConnectorMetadata) connector?.startLoadKv(plan.kvConnectorMetadata);
    const sampled = await sampling;
    return { ...sampled, kvConnectorOutput: connector?.getFinished() ?? null };
  }

  async #forward(plan: SchedulerOutput): Promise<Sampled> {
    const { model, sampler } = this.#parts;
    const requests = samplingRequests(plan.scheduled);
    const { tokenIds, logits } = await this.#run(plan, requests);
    const sampledTokenIds = new Map<string, number>();
    const logprobs = new Map<string, TokenLogprobs>();
    let sliceEnd = performance.now() + sliceMs;
    let row = 0;
    for (const [index, { request }] of requests.entries()) {
      const drawn = tokenIds[index] ?? null;
      if (drawn !== null) {
        sampledTokenIds.set(request.requestId, checkDrawn(drawn));
        continue;
      }
      if (performance.now() > sliceEnd) {
        await nextTurn();
        sliceEnd = performance.now() + sliceMs;
      }
      const begin = row++ * model.vocabSize;
      const sample = sampler.sample(request, logits.subarray(begin, begin + model.vocabSize));
      sampledTokenIds.set(request.requestId, sample.tokenId);
      if (sample.logprobs) logprobs.set(request.requestId, sample.logprobs);
    }
    return { sampledTokenIds, logprobs };
  }

  /** The model draws what it can by itself; logits come of the other rows. */
  async #run(plan: SchedulerOutput, requests: readonly ScheduledRequest[]): Promise<SampledForward> {
    const { model, pool, sampler } = this.#parts;
    const input = toForwardInput(plan.scheduled);
    if (!model.forwardAndSample) return { tokenIds: [], logits: await model.forward(pool, input) };
    return model.forwardAndSample(
      pool,
      input,
      requests.map(({ request }) => sampler.drawOf(request)),
    );
  }
}

function nothingSampled(): Sampled {
  return { sampledTokenIds: new Map(), logprobs: new Map() };
}
