// The engine as everything above it knows it: generate, cacheQuery, state, shutdown.
import { randomUUID } from 'node:crypto';
import type { EngineConfig, KvCacheDtype } from '../config.js';
import { VllmPdError } from '../errors.js';
import { withoutForgedClaims } from '../kv-transfer/claims.js';
import { firstTokenOf } from '../kv-transfer/first-token.js';
import { createLogger } from '../log.js';
import type { ChatTemplate } from '../model/chat-template.js';
import type { GenerationConfig } from '../model/generation-config.js';
import type { Tokenizer } from '../model/tokenizer.js';
import { defaultSamplingParams, Request, type RequestInit, type SamplingParams } from '../request.js';
import type { CacheQueryAnswer, KvTransferParams } from '../wire.js';
import { EngineCore } from './engine-core.js';
import { closeParts, type EngineParts, startParts } from './engine-parts.js';
import { OutputProcessor } from './output-processor.js';
import {
  checkFirstToken,
  checkPeer,
  checkPriority,
  checkPrompt,
  checkPromptLogprobs,
  checkSampling,
} from './request-check.js';
import type { RequestStream } from './request-stream.js';
import type { SampleGroup } from './sample-group.js';
import type {
  EngineState,
  KvHopBytes,
  KvStoreStats,
  KvTransferStats,
  PrefixCacheStats,
  StatLogger,
} from './stats.js';

const log = createLogger('engine');

export interface GenerateInput {
  /** Must be unique among what runs; a random one if absent. */
  readonly requestId?: string;
  readonly promptTokenIds: readonly number[];
  /** What is absent takes vLLM's default; `maxTokens` takes all that is left of the context. */
  readonly samplingParams?: Partial<SamplingParams>;
  readonly cacheSalt?: string | null;
  readonly sessionId?: string | null;
  readonly kvTransferParams?: KvTransferParams | null;
  /** Lower goes first; other than 0 only with the scheduling policy `priority`. */
  readonly priority?: number;
  /** The answers to this prompt that are counted as those of one call; absent = this one alone. */
  readonly samples?: SampleGroup;
}

export interface CacheQueryInput {
  /** Hold the blocks found, until read, released or expired. Default false. */
  readonly lease?: boolean;
  /** Whether stores are asked what they hold of the prompt, for `block_tiers`; otherwise it is what was last heard. Default true. */
  readonly askStores?: boolean;
  readonly cacheSalt?: string | null;
}

export class Engine {
  readonly config: EngineConfig;
  readonly #parts: EngineParts;
  readonly #core: EngineCore;
  readonly #outputs: OutputProcessor;
  readonly #statLoggers: StatLogger[] = [];
  #numDroppedStats = 0;
  readonly #eosTokenIds: readonly number[];
  #isClosing = false;
  #shutdown: Promise<void> | null = null;

  private constructor(parts: EngineParts) {
    this.config = parts.config;
    this.#parts = parts;
    const { scheduler, runner, clock, folder, connectorWorker } = parts;
    this.#eosTokenIds = eosTokenIdsOf(folder);
    this.#outputs = new OutputProcessor({
      tokenizer: folder.tokenizer,
      clock,
      finishRequest: (...args) => this.#core.finishRequest(...args),
      maxSequenceTokens: parts.limits.maxModelLen,
      statLoggers: this.#statLoggers,
    });
    this.#core = new EngineCore({ scheduler, runner, listener: this.#outputs, clock });
    connectorWorker.onProgress(() => this.#core.wake());
    parts.storage.lookups.onProgress(() => this.#core.wake());
    this.#core.start();
  }

  /**
   * Loads the model and listens for peers. `onPacked` is told which share of the weights is packed, where they have to be.
   * Throws NOT_FOUND, BAD_FILE, NATIVE_UNAVAILABLE, ADDRESS_IN_USE, NOT_SUPPORTED.
   */
  static async start(config: EngineConfig, onPacked?: (fraction: number) => void): Promise<Engine> {
    return new Engine(await startParts(config, onPacked));
  }

  get tokenizer(): Tokenizer {
    return this.#parts.folder.tokenizer;
  }

  get chatTemplate(): ChatTemplate {
    return this.#parts.folder.chatTemplate;
  }

  get generationConfig(): GenerationConfig {
    return this.#parts.folder.generationConfig;
  }

  /** Longest prompt plus answer, in tokens: what was configured, capped by what the model and the pool can hold. */
  get maxModelLen(): number {
    return this.#parts.limits.maxModelLen;
  }

  /** What K and V are kept as on this machine. */
  get kvCacheDtype(): KvCacheDtype {
    return this.#parts.pool.layout.dtype;
  }

  /** Where KV events are published and replayed; null = nowhere. */
  get kvEvents(): { readonly endpoint: string; readonly replayEndpoint: string | null } | null {
    return this.#parts.events?.publisher ?? null;
  }

  /** Where peers reach this node's blocks. */
  get sideChannel(): { readonly host: string; readonly port: number } {
    const { host, port } = this.#parts.agent;
    return { host, port };
  }

  /** Why the engine cannot go on; null while it can. */
  get fatal(): VllmPdError | null {
    return this.#core.fatal;
  }

  /**
   * Queues a request; its pieces come out of the generator, which aborts it when it is left early and rejects when it
   * fails. A first token that P has sampled is `firstPiece` of the generator, and none of its pieces.
   * Throws INVALID_ARGUMENT, PROMPT_TOO_LONG or QUEUE_FULL at once.
   */
  generate(input: GenerateInput): RequestStream {
    const { limits } = this.#parts;
    checkPriority(input.priority ?? 0, this.config.scheduler.policy);
    this.checkRoom();
    const numPromptTokens = input.promptTokenIds.length;
    checkPrompt(input.promptTokenIds, limits);
    checkPeer(input.kvTransferParams ?? null, this.#parts.peers, this.config.kvTransfer.engineId);
    const samplingParams = {
      ...defaultSamplingParams,
      maxTokens: limits.maxModelLen - numPromptTokens,
      ...input.samplingParams,
    };
    checkSampling(samplingParams, numPromptTokens, limits);
    checkPromptLogprobs(samplingParams, input.kvTransferParams ?? null);
    const kvTransferParams = this.believed(input.kvTransferParams ?? null, input.promptTokenIds);
    const firstToken = firstTokenOf(kvTransferParams);
    if (firstToken) checkFirstToken(firstToken, samplingParams, limits);
    const firstTokenId = firstToken?.tokenId ?? null;
    const request = this.#createRequest({ ...input, samplingParams, kvTransferParams, firstTokenId });
    this.#core.addRequest(request);
    return this.#outputs.addRequest(request, firstToken, input.samples);
  }

  /** Which blocks of this prompt are cached here. Runs no model and counts in no statistics. */
  async cacheQuery(
    promptTokenIds: readonly number[],
    { lease = false, askStores = true, ...input }: CacheQueryInput = {},
  ): Promise<CacheQueryAnswer> {
    checkPrompt(promptTokenIds, this.#parts.limits);
    const request = this.#createRequest({
      ...input,
      promptTokenIds,
      samplingParams: defaultSamplingParams,
      cacheQuery: { lease },
    });
    const { scheduler, storage } = this.#parts;
    // A slow store is not waited for longer than its guard allows.
    if (askStores && storage.external) await storage.stores.locate(scheduler.hashPrompt(request));
    this.#core.addRequest(request);
    const answer = this.#outputs.addQuery(request);
    this.#core.answerQueries();
    return answer;
  }

  /** Ends a lease before it was read or has expired. False if there is none of that id (any more). */
  releaseLease(leaseId: string): boolean {
    return this.#core.releaseLease(leaseId);
  }

  /** `onlyFree`: forgets the cached blocks that nobody uses. Otherwise all, or none (false) while any block is in use. */
  resetPrefixCache(options: { readonly onlyFree: boolean } = { onlyFree: false }): boolean {
    const wasReset = this.#parts.scheduler.resetPrefixCache(options);
    if (wasReset) this.#parts.events?.recorder.reset();
    return wasReset;
  }

  /** From now on the only addresses that this node fetches KV from; none = this machine. */
  setKvPeers(peers: readonly string[]): void {
    this.#parts.peers.replace(peers);
  }

  /** The parameters without what only a prefill node could know and none of this cluster said. */
  believed(params: KvTransferParams | null, promptTokenIds: readonly number[]): KvTransferParams | null {
    return withoutForgedClaims(this.config.kvTransfer.key, params, promptTokenIds);
  }

  /** A prefill node's statistics cannot be: the request goes on without them. */
  noteDroppedStats(reason: string): void {
    this.#numDroppedStats += 1;
    log.info(reason);
  }

  /** Throws QUEUE_FULL when as many requests wait as may. */
  checkRoom(): void {
    const { maxWaiting } = this.config.scheduler;
    if (this.#parts.scheduler.numQueued < maxWaiting) return;
    const message = `Expected fewer than ${maxWaiting} requests to be waiting on this node; try again later.`;
    throw new VllmPdError('QUEUE_FULL', message);
  }

  addStatLogger(logger: StatLogger): void {
    this.#statLoggers.push(logger);
  }

  state(): EngineState {
    return this.#parts.scheduler.state();
  }

  prefixCacheStats(): PrefixCacheStats {
    return this.#parts.scheduler.prefixCacheStats;
  }

  /** One entry a store. */
  kvStoreStats(): readonly KvStoreStats[] {
    return this.#parts.storage.stores.stats();
  }

  /** Bytes that came to this node, by where from. */
  kvHopBytes(): KvHopBytes {
    return this.#parts.connectorScheduler.hops;
  }

  kvTransferStats(): KvTransferStats {
    const { agent, connectorScheduler } = this.#parts;
    return {
      bytesSent: agent.bytesSent,
      bytesReceived: agent.bytesReceived,
      bytesReceivedBy: agent.bytesReceivedBy,
      numExpiredHolds: connectorScheduler.numEndedHolds('expired'),
      numDamagedBlocks: agent.numDamagedBlocks,
      numDroppedStats: this.#numDroppedStats,
    };
  }

  /** Takes no more requests and resolves when those that run have ended. */
  async drain(): Promise<void> {
    this.#isClosing = true;
    await this.#outputs.idle();
  }

  /** Ends everything: requests as aborted, loads, connections, threads; frees the pool. Idempotent. */
  shutdown(): Promise<void> {
    this.#isClosing = true;
    this.#shutdown ??= this.#close();
    return this.#shutdown;
  }

  async #close(): Promise<void> {
    this.#outputs.abortAll();
    await this.#core.stop();
    this.#outputs.failAll(new VllmPdError('OVERLOADED', 'The engine was shut down.'));
    await closeParts(this.#parts);
  }

  #createRequest(
    init: Omit<RequestInit, 'requestId' | 'eosTokenIds'> & { readonly requestId?: string },
  ): Request {
    if (this.#isClosing) throw new VllmPdError('OVERLOADED', 'The engine is shutting down.');
    const requestId = init.requestId ?? randomUUID();
    if (this.#outputs.has(requestId)) {
      const message = `Expected a new request id but \`${requestId}\` is in use.`;
      throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'request_id' });
    }
    return new Request({ ...init, requestId, eosTokenIds: this.#eosTokenIds }, this.#parts.clock());
  }
}

/** The tokenizer's own id first, whether or not generation_config.json names it; as vLLM. */
function eosTokenIdsOf({ tokenizer, generationConfig }: EngineParts['folder']): readonly number[] {
  const { eos_token } = tokenizer.specialTokens;
  const own = eos_token === undefined ? undefined : tokenizer.idOf(eos_token);
  return [...new Set([...(own === undefined ? [] : [own]), ...generationConfig.eosTokenIds])];
}
