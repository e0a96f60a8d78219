// Carries out one step's plan: starts KV loads, runs the model, samples, collects what the loads came to.
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { KVConnectorWorker } from '../kv-transfer/connector.js';
import type { Model } from '../model/model.js';
import type { KvPool } from '../native/kv-pool.js';
import type { SampledForward } from '../native/model.js';
import type { ModelRunnerOutput, ScheduledRequest, SchedulerOutput, TokenLogprobs } from '../outputs.js';
import { numPromptRows, toForwardInput } from './input-batch.js';
import { checkDrawn, type Sampler } from './sampler.js';

/** Going through many rows of logits gives way to the event loop after this long, in ms. */
const sliceMs = 4;

export interface ModelRunnerParts {
  readonly model: Model;
  readonly pool: KvPool;
  readonly sampler: Sampler;
  readonly connector: KVConnectorWorker | null;
}

interface Sampled {
  readonly sampledTokenIds: Map<string, number>;
  readonly logprobs: Map<string, TokenLogprobs>;
  readonly promptLogprobs: Map<string, readonly TokenLogprobs[]>;
}

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
    const { tokenIds, logits } = await this.#run(plan);
    const rows = new Rows(logits, model.vocabSize);
    const sampled = nothingSampled();
    // Counts those too that the model drew from by itself, which are not among `rows`.
    let row = 0;
    for (const entry of plan.scheduled) {
      const { request, samples } = entry;
      const { requestId } = request;
      const numOfPrompt = numPromptRows(entry);
      if (numOfPrompt > 0) sampled.promptLogprobs.set(requestId, await this.#readPrompt(entry, rows));
      row += numOfPrompt;
      if (!samples) continue;
      const drawn = tokenIds[row++] ?? null;
      if (drawn !== null) {
        sampled.sampledTokenIds.set(requestId, checkDrawn(drawn));
        continue;
      }
      if (rows.isSliceOver) await rows.giveWay();
      const sample = sampler.sample(request, rows.next());
      sampled.sampledTokenIds.set(requestId, sample.tokenId);
      if (sample.logprobs) sampled.logprobs.set(requestId, sample.logprobs);
    }
    return sampled;
  }

  /** One entry a row: of the token behind the one that the row's logits come from. */
  async #readPrompt(entry: ScheduledRequest, rows: Rows): Promise<TokenLogprobs[]> {
    const { request, numComputedTokens } = entry;
    const begin = numComputedTokens + 1;
    const entries: TokenLogprobs[] = [];
    for (const tokenId of request.tokenIds.slice(begin, begin + numPromptRows(entry))) {
      if (rows.isSliceOver) await rows.giveWay();
      entries.push(this.#parts.sampler.logprobsOfPromptToken(request, rows.next(), tokenId));
    }
    return entries;
  }

  /** The model draws what it can by itself; logits come of the other rows. */
  async #run({ scheduled }: SchedulerOutput): Promise<SampledForward> {
    const { model, pool, sampler } = this.#parts;
    const input = toForwardInput(scheduled);
    if (!model.forwardAndSample) return { tokenIds: [], logits: await model.forward(pool, input) };
    const draws = scheduled.flatMap((entry) => {
      const ofPrompt = new Array<null>(numPromptRows(entry)).fill(null);
      return entry.samples ? [...ofPrompt, sampler.drawOf(entry.request)] : ofPrompt;
    });
    return model.forwardAndSample(pool, input, draws);
  }
}

/** Rows of logits, one after the other, and for how long they have been gone through. */
class Rows {
  readonly #logits: Float32Array;
  readonly #vocabSize: number;
  #end = 0;
  #sliceEndMs = performance.now() + sliceMs;

  constructor(logits: Float32Array, vocabSize: number) {
    this.#logits = logits;
    this.#vocabSize = vocabSize;
  }

  next(): Float32Array {
    const begin = this.#end;
    this.#end += this.#vocabSize;
    return this.#logits.subarray(begin, this.#end);
  }

  get isSliceOver(): boolean {
    return performance.now() > this.#sliceEndMs;
  }

  async giveWay(): Promise<void> {
    await nextTurn();
    this.#sliceEndMs = performance.now() + sliceMs;
  }
}

function nothingSampled(): Sampled {
  return { sampledTokenIds: new Map(), logprobs: new Map(), promptLogprobs: new Map() };
}
