// Carries what the loop reports to those who wait for it: pieces of answers, cache-query answers, statistics.
import { checkStop } from '../core/stop.js';
import { VllmPdError } from '../errors.js';
import { type FirstToken, withFirstToken } from '../kv-transfer/first-token.js';
import type { Tokenizer } from '../model/tokenizer.js';
import type { EngineCoreOutput, KVConnectorOutput, SchedulerOutput } from '../outputs.js';
import { type FinishedStatus, numAlternatives, type Request } from '../request.js';
import type { CacheQueryAnswer } from '../wire.js';
import { Answer } from './answer.js';
import type { EngineCore, EngineCoreListener } from './engine-core.js';
import { RequestStream } from './request-stream.js';
import { RequestTimer } from './request-timer.js';
import { SampleGroup } from './sample-group.js';
import type { StatLogger, StepStats } from './stats.js';

interface Live {
  readonly request: Request;
  readonly stream: RequestStream;
  readonly answer: Answer;
  readonly timer: RequestTimer;
}

interface Query {
  readonly resolve: (answer: CacheQueryAnswer) => void;
  readonly reject: (error: unknown) => void;
}

export interface OutputProcessorInit {
  readonly tokenizer: Tokenizer;
  readonly clock: () => number;
  /** The core's; called when a stop string was found and when a caller leaves. */
  readonly finishRequest: EngineCore['finishRequest'];
  /** The scheduler's. */
  readonly maxSequenceTokens: number;
  readonly statLoggers: readonly StatLogger[];
}

export class OutputProcessor implements EngineCoreListener {
  readonly #init: OutputProcessorInit;
  readonly #live = new Map<string, Live>();
  readonly #queries = new Map<string, Query>();
  #onIdle: (() => void) | null = null;

  constructor(init: OutputProcessorInit) {
    this.#init = init;
  }

  has(requestId: string): boolean {
    return this.#live.has(requestId) || this.#queries.has(requestId);
  }

  /** `firstToken`: the request's, if a peer has sampled it. The core must have been told of the request. */
  addRequest(
    request: Request,
    firstToken: FirstToken | null = null,
    samples = new SampleGroup(1),
  ): RequestStream {
    const { tokenizer, statLoggers } = this.#init;
    const stream = new RequestStream(request.requestId, () => this.abort(request.requestId));
    const live: Live = {
      request,
      stream,
      answer: new Answer(request, tokenizer),
      timer: new RequestTimer(request, statLoggers, samples),
    };
    this.#live.set(request.requestId, live);
    if (firstToken) this.#begin(live, firstToken);
    return stream;
  }

  /** Brings the answer to where it would be had the token been sampled here; it may end there. */
  #begin(live: Live, { tokenId, logprobs }: FirstToken): void {
    const { request, stream, answer } = live;
    const { samplingParams, requestId } = request;
    const ending = checkStop(request, this.#init.maxSequenceTokens);
    const numTop = numAlternatives(samplingParams);
    const { piece } = answer.add({
      requestId,
      newTokenIds: [tokenId],
      promptLogprobs: null,
      newLogprobs: logprobs && numTop !== null ? [{ ...logprobs, top: logprobs.top.slice(0, numTop) }] : [],
      finished: ending?.status ?? null,
      stopReason: ending?.stopReason ?? null,
      kvTransferParams: null,
      prefillStats: null,
      cacheQueryAnswer: null,
      error: null,
    });
    stream.firstPiece = piece;
    if (piece.finishReason === null) return;
    const status = piece.finishReason === 'stop' ? 'FINISHED_STOPPED' : 'FINISHED_LENGTH_CAPPED';
    this.#init.finishRequest(requestId, status, piece.stopReason);
    stream.end();
    this.#forget(live, status);
  }

  addQuery(request: Request): Promise<CacheQueryAnswer> {
    return new Promise((resolve, reject) => {
      this.#queries.set(request.requestId, { resolve, reject });
    });
  }

  /** The caller sees a last piece with finish reason `abort`, if it is still there. */
  abort(requestId: string): void {
    const live = this.#live.get(requestId);
    if (!live) return;
    const output = this.#init.finishRequest(requestId, 'FINISHED_ABORTED');
    if (output) this.#deliver(live, output);
    else this.#forget(live, 'FINISHED_ABORTED');
  }

  abortAll(): void {
    for (const requestId of [...this.#live.keys()]) this.abort(requestId);
  }

  failAll(error: VllmPdError): void {
    for (const live of [...this.#live.values()]) this.#fail(live, 'FINISHED_ERROR', error);
    for (const { reject } of this.#queries.values()) reject(error);
    this.#queries.clear();
  }

  /** Resolves when no request is live. */
  async idle(): Promise<void> {
    if (this.#live.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#onIdle = resolve;
    });
  }

  onPlan(plan: SchedulerOutput): void {
    const nowMs = this.#init.clock();
    for (const { request } of plan.scheduled) this.#live.get(request.requestId)?.timer.scheduled(nowMs);
    this.onQueryAnswers(plan.cacheQueryAnswers);
  }

  onQueryAnswers(answers: readonly CacheQueryAnswer[]): void {
    for (const answer of answers) this.#answerQuery(answer.request_id, answer);
  }

  onOutputs(outputs: readonly EngineCoreOutput[]): void {
    for (const output of outputs) {
      const live = this.#live.get(output.requestId);
      if (live) this.#deliver(live, output);
      else if (output.cacheQueryAnswer) this.#answerQuery(output.requestId, output.cacheQueryAnswer);
      else if (output.finished !== null) this.#failQuery(output.requestId, errorOf(output));
    }
  }

  onStep(stats: StepStats, connectorOutput: KVConnectorOutput | null): void {
    for (const logger of this.#init.statLoggers) {
      logger.recordStep(stats);
      for (const { numBytes, numBlocks, transferMs, failure } of connectorOutput?.finishedRecving ?? []) {
        logger.recordTransfer(numBytes, numBlocks, transferMs, failure !== null);
      }
    }
  }

  onFatal(error: VllmPdError): void {
    this.failAll(error);
  }

  #deliver(live: Live, output: EngineCoreOutput): void {
    const nowMs = this.#init.clock();
    for (const _ of output.newTokenIds) live.timer.token(nowMs);
    if (output.finished === 'FINISHED_ERROR' || output.finished === 'FINISHED_IGNORED') {
      this.#fail(live, output.finished, errorOf(output));
      return;
    }
    const { piece, stop } = live.answer.add(withOwnFirstToken(live.request, output));
    if (stop !== null && output.finished === null) {
      const last = this.#init.finishRequest(live.request.requestId, 'FINISHED_STOPPED', stop);
      live.stream.push({ ...piece, kvTransferParams: last?.kvTransferParams ?? null });
      this.#forget(live, 'FINISHED_STOPPED');
      return;
    }
    live.stream.push(piece);
    if (output.finished !== null) this.#forget(live, output.finished);
  }

  #fail(live: Live, status: FinishedStatus, error: VllmPdError): void {
    live.stream.fail(error);
    this.#forget(live, status);
  }

  #forget({ request, answer, timer }: Live, status: FinishedStatus): void {
    const numOwnTokens = answer.numOutputTokens - request.numRemoteOutputTokens;
    timer.finished(this.#init.clock(), status, numOwnTokens, request.prefillStats);
    this.#live.delete(request.requestId);
    if (this.#live.size === 0) this.#onIdle?.();
  }

  #answerQuery(requestId: string, answer: CacheQueryAnswer): void {
    this.#queries.get(requestId)?.resolve(answer);
    this.#queries.delete(requestId);
  }

  #failQuery(requestId: string, error: VllmPdError): void {
    this.#queries.get(requestId)?.reject(error);
    this.#queries.delete(requestId);
  }
}

/** P's last word names the token that it sampled, for D to go on behind. */
function withOwnFirstToken(request: Request, output: EngineCoreOutput): EngineCoreOutput {
  const [tokenId] = output.newTokenIds;
  if (output.finished === null || tokenId === undefined || !request.endsWithFirstToken) return output;
  const [logprobs = null] = output.newLogprobs;
  return { ...output, kvTransferParams: withFirstToken(output.kvTransferParams, tokenId, logprobs) };
}

function errorOf({ finished, error }: EngineCoreOutput): VllmPdError {
  if (finished === 'FINISHED_IGNORED') {
    return new VllmPdError('PROMPT_TOO_LONG', error ?? 'The prompt can never run on this node.', {
      param: 'prompt',
    });
  }
  return new VllmPdError('INTERNAL', error ?? 'The request failed.');
}
