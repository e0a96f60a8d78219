// A node without threads or sockets: the real scheduler and connector half, stepped by hand over a KV memory that can tell
// whose KV a slot holds.
import * as assert from 'uvu/assert';
import type { CacheConfig, KvTransferConfig, SchedulerConfig } from '../../src/config.js';
import type { BlockTableSink } from '../../src/core/block-table-sink.js';
import { Scheduler, type SchedulerInit } from '../../src/core/scheduler.js';
import { PullConnectorScheduler } from '../../src/kv-transfer/pull-scheduler.js';
import type {
  EngineCoreOutput,
  FinishedPull,
  FinishedSend,
  KVConnectorOutput,
  PullSpec,
  SchedulerOutput,
  TokenLogprobs,
} from '../../src/outputs.js';
import { defaultSamplingParams, Request, type RequestInit, type SamplingParams } from '../../src/request.js';
import { numPromptRows } from '../../src/worker/input-batch.js';

const vocabSize = 1000;
export const bytesPerBlock = 100;

/** Tokens that depend on the label only, so that a longer text begins with the shorter one. */
export function tokens(label: string, length: number): number[] {
  let state = 7;
  for (const char of label) state = mix(state, char.charCodeAt(0));
  return Array.from({ length }, () => {
    state = mix(state, 1);
    return state % vocabSize;
  });
}

/** What stands for the KV of a token: it depends on the token and all before it. */
function mix(previous: number, tokenId: number): number {
  const x = Math.imul(previous ^ (tokenId + 0x9e37), 0x85eb_ca6b);
  return (x ^ (x >>> 13)) >>> 0;
}

/** What a node's outputs say of this prompt where it is scored. */
export function scoresOf(promptTokenIds: readonly number[]): TokenLogprobs[] {
  let logprob = 0;
  const kv = promptTokenIds.map((tokenId) => {
    logprob = mix(logprob, tokenId);
    return logprob;
  });
  return promptTokenIds.slice(1).map((tokenId, i) => ({ tokenId, logprob: kv[i]!, rank: 1, top: [] }));
}

let numRequests = 0;

export type TestRequest = Partial<Omit<RequestInit, 'samplingParams'>> & Partial<SamplingParams>;

/** `promptTokenIds` default to one block and a half. */
export function createRequest(options: TestRequest = {}): Request {
  numRequests += 1;
  return new Request(
    {
      ...options,
      requestId: options.requestId ?? `request-${numRequests}`,
      promptTokenIds: options.promptTokenIds ?? tokens('default', 24),
      samplingParams: { ...defaultSamplingParams, ignoreEos: true, ...options },
    },
    0,
  );
}

export interface TestNodeOptions {
  readonly cache?: Partial<CacheConfig>;
  readonly scheduler?: Partial<SchedulerConfig>;
  /** Absent = no connector. */
  readonly kvTransfer?: Partial<KvTransferConfig>;
  /** In place of the real connector half. */
  readonly connector?: SchedulerInit['connector'];
  readonly maxPromptLogprobs?: number;
}

export interface Step {
  readonly output: SchedulerOutput;
  readonly outputs: readonly EngineCoreOutput[];
}

export class TestNode implements BlockTableSink {
  readonly engineId: string;
  readonly scheduler: Scheduler;
  nowMs = 1000;
  /** Loads wait here while it is set. */
  holdsLoads = false;
  /** Set to make loads fail. */
  isReachable = true;
  /** What the worker half says of a load, instead of the truth. */
  misreport: ((pull: FinishedPull, invalidBlockIds: number[]) => FinishedPull) | null = null;
  readonly rows = new Map<number, string>();
  readonly pulls: PullSpec[] = [];
  readonly #blockSize: number;
  /** (num_blocks, block_size) */
  readonly #memory: (number | null)[][];
  /** Contents at the time of publishing: they may not change before the row is retracted. */
  readonly #published = new Map<number, readonly (number | null)[]>();
  readonly #peers = new Map<string, TestNode>();
  readonly #kv = new WeakMap<Request, number[]>();
  #finishedSending: FinishedSend[] = [];
  #queuedPulls: PullSpec[] = [];

  constructor(options: TestNodeOptions = {}) {
    const cache = {
      blockSize: 16,
      numBlocks: 101,
      enablePrefixCaching: true,
      hashSeed: '0',
      ...options.cache,
    };
    this.engineId = options.kvTransfer?.engineId ?? 'node';
    this.#blockSize = cache.blockSize;
    this.#memory = Array.from({ length: cache.numBlocks }, () => Array(cache.blockSize).fill(null));
    const clock = () => this.nowMs;
    this.scheduler = new Scheduler({
      engineId: this.engineId,
      cache,
      scheduler: {
        maxNumSeqs: 16,
        maxNumBatchedTokens: 2048,
        maxModelLen: 8192,
        maxWaiting: 1024,
        policy: 'fcfs',
        ...options.scheduler,
      },
      connector:
        options.connector ??
        (options.kvTransfer ? createConnector(options.kvTransfer, cache.blockSize, clock) : null),
      sink: this,
      ...(options.maxPromptLogprobs && { maxPromptLogprobs: options.maxPromptLogprobs }),
      clock,
      ...(options.kvTransfer?.kvLoadFailurePolicy
        ? { kvLoadFailurePolicy: options.kvTransfer.kvLoadFailurePolicy }
        : {}),
    });
  }

  connect(peer: TestNode): void {
    this.#peers.set(peer.engineId, peer);
    peer.#peers.set(this.engineId, this);
  }

  add(options: TestRequest = {}): Request {
    const request = createRequest(options);
    this.scheduler.addRequest(request);
    return request;
  }

  /** One whole step; checks what must hold after each. `during` runs while the model would. */
  step(during: () => void = () => {}): Step {
    const output = this.scheduler.schedule();
    this.#startPulls(output.kvConnectorMetadata?.pulls ?? []);
    const sampledTokenIds = this.#runModel(output);
    const promptLogprobs = this.#readPrompts(output);
    during();
    const outputs = this.scheduler.updateFromOutput(output, {
      sampledTokenIds,
      logprobs: new Map(),
      promptLogprobs,
      kvConnectorOutput: this.#collectTransfers(),
    });
    this.check();
    return { output, outputs };
  }

  /** Steps until nothing can be done any more; all outputs. */
  run(maxSteps = 5000): EngineCoreOutput[] {
    const all: EngineCoreOutput[] = [];
    for (let i = 0; this.scheduler.hasWork() || this.#hasNews(); i += 1) {
      assert.ok(i < maxSteps, 'the node does not come to rest');
      all.push(...this.step().outputs);
    }
    return all;
  }

  /** The outputs of one request, run to its end. */
  complete(options: TestRequest): { request: Request; last: EngineCoreOutput } {
    const request = this.add(options);
    const last = this.run()
      .filter((output) => output.requestId === request.requestId)
      .at(-1);
    assert.ok(last?.finished, 'the request did not end');
    return { request, last };
  }

  check(): void {
    this.scheduler.checkInvariants();
    for (const [blockId, contents] of this.#published) {
      assert.equal(this.#memory[blockId], contents, `block ${blockId} changed while it was published`);
    }
  }

  assertEmpty(): void {
    this.scheduler.assertEmpty();
    assert.is(this.rows.size, this.scheduler.state().numCachedBlocks, 'rows and prefix map differ');
  }

  publish(blockId: number, hash: string): void {
    assert.not.ok(this.rows.has(blockId), `block ${blockId} is published twice`);
    this.rows.set(blockId, hash);
    this.#published.set(blockId, [...this.#memory[blockId]!]);
  }

  retract(blockId: number): void {
    assert.ok(this.rows.has(blockId), `block ${blockId} is retracted but was not published`);
    this.rows.delete(blockId);
    this.#published.delete(blockId);
  }

  /** Changes a block behind everybody's back. */
  corrupt(blockId: number): void {
    this.#memory[blockId]!.fill(-1);
    this.#published.delete(blockId);
  }

  /** Writes the scheduled tokens' KV, having checked that all before it is there; samples from what was written. */
  #runModel(output: SchedulerOutput): Map<string, number> {
    const sampled = new Map<string, number>();
    for (const { request, numComputedTokens, numScheduledTokens, blockIds, samples } of output.scheduled) {
      const kv = this.#kvOf(request);
      const end = numComputedTokens + numScheduledTokens;
      for (let position = 0; position < end; position += 1) {
        const block = this.#memory[blockIds[Math.floor(position / this.#blockSize)]!]!;
        const slot = position % this.#blockSize;
        if (position >= numComputedTokens) block[slot] = kv[position]!;
        else if (block[slot] !== kv[position]) {
          throw new Error(`wrong KV at position ${position} of ${request.requestId}`);
        }
      }
      if (samples) sampled.set(request.requestId, kv[end - 1]! % vocabSize);
    }
    return sampled;
  }

  /** In place of a log probability, what stands for the KV that it would be computed from. */
  #readPrompts(output: SchedulerOutput): Map<string, readonly TokenLogprobs[]> {
    const entries = output.scheduled.map((entry) => {
      const { request, numComputedTokens: begin } = entry;
      const kv = this.#kvOf(request).slice(begin, begin + numPromptRows(entry));
      const tokenIds = request.tokenIds.slice(begin + 1);
      const read = kv.map((logprob, i) => ({ tokenId: tokenIds[i]!, logprob, rank: 1, top: [] }));
      return [request.requestId, read] as const;
    });
    return new Map(entries.filter(([, read]) => read.length > 0));
  }

  #kvOf(request: Request): readonly number[] {
    const kv = this.#kv.get(request) ?? [];
    this.#kv.set(request, kv);
    for (let i = kv.length; i < request.numTokens; i += 1) kv.push(mix(kv.at(-1) ?? 0, request.tokenIds[i]!));
    return kv;
  }

  #startPulls(pulls: readonly PullSpec[]): void {
    for (const pull of pulls) {
      this.pulls.push(pull);
      if (pull.remoteBlockIds.length === 0) this.#notify(pull, 0);
      else this.#queuedPulls.push(pull);
    }
  }

  #notify({ remote }: PullSpec, numBlocks: number): void {
    const peer = this.#peers.get(remote.engineId);
    if (peer && this.isReachable) peer.#finishedSending.push({ requestId: remote.requestId, numBlocks });
  }

  #hasNews(): boolean {
    return this.#finishedSending.length > 0 || (this.#queuedPulls.length > 0 && !this.holdsLoads);
  }

  #collectTransfers(): KVConnectorOutput | null {
    if (!this.#hasNews()) return null;
    const invalidBlockIds: number[] = [];
    const finishedRecving: FinishedPull[] = [];
    if (!this.holdsLoads) {
      for (const pull of this.#queuedPulls) {
        const finished = this.#read(pull, invalidBlockIds);
        finishedRecving.push(this.misreport?.(finished, invalidBlockIds) ?? finished);
      }
      this.#queuedPulls = [];
    }
    const finishedSending = this.#finishedSending;
    this.#finishedSending = [];
    return { finishedSending, finishedRecving, invalidBlockIds };
  }

  #read(pull: PullSpec, invalidBlockIds: number[]): FinishedPull {
    const peer = this.isReachable ? this.#peers.get(pull.remote.engineId) : undefined;
    let numBlocks = 0;
    for (const [i, remoteBlockId] of pull.remoteBlockIds.entries()) {
      if (peer?.rows.get(remoteBlockId) !== pull.blockHashes[i]) break;
      this.#memory[pull.localBlockIds[i]!] = [...peer!.#memory[remoteBlockId]!];
      numBlocks += 1;
    }
    invalidBlockIds.push(...pull.localBlockIds.slice(numBlocks));
    this.#notify(pull, numBlocks);
    const isComplete = numBlocks === pull.remoteBlockIds.length;
    return {
      requestId: pull.requestId,
      numBlocks,
      numBytes: numBlocks * bytesPerBlock,
      transferMs: 1,
      failure: isComplete ? null : peer ? 'stale' : 'failed',
    };
  }
}

function createConnector(options: Partial<KvTransferConfig>, blockSize: number, clock: () => number) {
  const config: KvTransferConfig = {
    engineId: 'node',
    role: 'both',
    mode: 'bi',
    lookup: 'query',
    firstToken: 'prefill',
    kvRecomputeThreshold: 64,
    kvLeaseDurationMs: 30_000,
    decoderKvBlocksTtlMs: 480_000,
    kvReadTimeoutMs: 30_000,
    kvPeerTimeoutMs: 5000,
    agent: 'auto',
    sideChannelHost: '127.0.0.1',
    sideChannelPort: 1,
    kvLoadFailurePolicy: 'recompute',
    key: null,
    insecure: false,
    peers: [],
    ...options,
  };
  return new PullConnectorScheduler({ config, blockSize, host: '127.0.0.1', port: 1, clock });
}
