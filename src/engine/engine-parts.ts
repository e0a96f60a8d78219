// What an engine is made of, and in which order it is started and closed.
import type { EngineConfig, KvCacheDtype, KvEventsConfig } from '../config.js';
import { Scheduler } from '../core/scheduler.js';
import type { TransferAgent } from '../kv-transfer/agent.js';
import { createTransferAgent } from '../kv-transfer/create-agent.js';
import { PeerPolicy } from '../kv-transfer/peer-policy.js';
import { PullConnectorScheduler } from '../kv-transfer/pull-scheduler.js';
import { PullConnectorWorker } from '../kv-transfer/pull-worker.js';
import { createLogger } from '../log.js';
import { resolveKvCacheDtype } from '../model/kv-cache-dtype.js';
import { loadModelFolder, type ModelFolder } from '../model/model-folder.js';
import { cudaWeights } from '../model/native-model.js';
import type { KvPool } from '../native/kv-pool.js';
import { loadNative } from '../native.js';
import { ModelRunner } from '../worker/model-runner.js';
import { Sampler } from '../worker/sampler.js';
import type { StepRunner } from './engine-core.js';
import { KvEventPublisher } from './kv-event-publisher.js';
import { KvEventRecorder } from './kv-event-recorder.js';
import { MeasuredRunner } from './measured-runner.js';
import { modelFingerprint } from './model-fingerprint.js';
import { sizedCache } from './pool-size.js';
import type { RequestLimits } from './request-check.js';
import { openStorage, type Storage } from './storage.js';

const log = createLogger('engine');

/** Who notices what is cached, and who says so. */
export interface KvEventParts {
  readonly recorder: KvEventRecorder;
  readonly publisher: KvEventPublisher;
}

export interface EngineParts {
  /** With the number of blocks that the pool really has. */
  readonly config: EngineConfig;
  readonly events: KvEventParts | null;
  readonly folder: ModelFolder;
  readonly pool: KvPool;
  readonly agent: TransferAgent;
  readonly peers: PeerPolicy;
  readonly connectorScheduler: PullConnectorScheduler;
  readonly connectorWorker: PullConnectorWorker;
  readonly scheduler: Scheduler;
  readonly runner: StepRunner;
  readonly storage: Storage;
  /** Monotonic, in ms; one clock for requests, scheduler and leases. */
  readonly clock: () => number;
  readonly limits: RequestLimits;
}

const clock = () => performance.now();

/** What a step's logits may take for log probabilities of prompts, where each token has a row of its own. */
const maxPromptLogitsBytes = 64 * 2 ** 20;

export async function startParts(
  wanted: EngineConfig,
  onPacked?: (fraction: number) => void,
): Promise<EngineParts> {
  const kvDtype = kvCacheDtypeOf(wanted);
  const folder = await loadFolder(wanted, kvDtype, onPacked);
  let pool: KvPool | null = null;
  let events: KvEventParts | null = null;
  let storage: Storage | null = null;
  try {
    const layout = {
      blockSize: wanted.cache.blockSize,
      ...folder.model.kvShape,
      dtype: kvDtype,
    };
    const config = { ...wanted, cache: sizedCache(wanted, layout) };
    const { numBlocks } = config.cache;
    pool = loadNative().createPool({ ...layout, numBlocks }, config.backend === 'cuda' ? 'device' : 'host');
    const peers = new PeerPolicy(config.kvTransfer.peers);
    const compatibility = await compatibilityOf(config);
    storage = await openStorage(config, pool, compatibility);
    if (config.kvEvents) events = await startEvents(config.kvEvents, config.cache.blockSize);
    const agent = await createTransferAgent({
      config: config.kvTransfer,
      engineId: config.kvTransfer.engineId,
      pool,
      compatibility,
      peers,
    });
    return { config, ...connectParts(config, folder, pool, agent, storage, events), peers };
  } catch (error) {
    await events?.publisher.close();
    await storage?.stores.close();
    pool?.close();
    folder.model.close();
    throw error;
  }
}

function kvCacheDtypeOf({ kvCacheDtype, backend, ...weights }: EngineConfig): KvCacheDtype {
  const dtype = backend === 'cuda' ? cudaWeights(weights).dtype : loadNative().defaultDtype;
  return resolveKvCacheDtype(kvCacheDtype, backend, dtype);
}

function loadFolder(
  config: EngineConfig,
  kvDtype: KvCacheDtype,
  onPacked: ((fraction: number) => void) | undefined,
) {
  const { modelPath, backend, numThreads, scheduler, dtype, quantization, cuda } = config;
  const { maxModelLen, maxNumBatchedTokens, maxNumSeqs } = scheduler;
  return loadModelFolder(modelPath, {
    backend,
    onnxFile: config.onnxFile,
    texts: { chatTemplate: config.chatTemplate, generation: config.generation },
    numThreads,
    maxModelLen,
    dtype,
    quantization,
    cuda: {
      kvDtype,
      batchInvariant: cuda.batchInvariant,
      maxTokens: Math.min(maxNumBatchedTokens, maxNumSeqs * maxModelLen),
      maxRequests: maxNumSeqs,
      maxPositions: maxModelLen,
    },
    ...(onPacked && { onPacked }),
  });
}

/** Nodes whose answers differ must not read each other's blocks: same weights, same hashes for the same tokens. */
async function compatibilityOf(config: EngineConfig): Promise<string> {
  const { modelPath, backend, onnxFile, cache, scheduler, dtype, quantization } = config;
  const options = { ...scheduler, dtype, quantization, onnxFile };
  const fingerprint = await modelFingerprint(modelPath, backend, options);
  return JSON.stringify({ model: fingerprint, block_size: cache.blockSize, hash_seed: cache.hashSeed });
}

function connectParts(
  config: EngineConfig,
  folder: ModelFolder,
  pool: KvPool,
  agent: TransferAgent,
  storage: Storage,
  events: KvEventParts | null,
): Omit<EngineParts, 'config' | 'peers'> {
  const { cache, kvTransfer } = config;
  const external = events ? events.recorder.watchStored(storage.external) : storage.external;
  const limits = limitsOf(config, folder);
  const connectorScheduler = new PullConnectorScheduler({
    config: kvTransfer,
    blockSize: cache.blockSize,
    host: agent.host,
    port: agent.port,
    planner: storage.planner,
    holds: agent.holds,
    clock,
  });
  const connectorWorker = new PullConnectorWorker({
    agent,
    pool,
    isHeld: (id) => connectorScheduler.isHeld(id),
    stores: storage.stores,
    readTimeoutMs: kvTransfer.kvReadTimeoutMs,
  });
  const scheduler = new Scheduler({
    engineId: kvTransfer.engineId,
    cache,
    scheduler: { ...config.scheduler, maxModelLen: limits.maxModelLen },
    kvLoadFailurePolicy: kvTransfer.kvLoadFailurePolicy,
    connector: connectorScheduler,
    maxPromptLogprobs: Math.max(1, Math.floor(maxPromptLogitsBytes / (4 * folder.model.vocabSize))),
    sink: events ? events.recorder.watchRemoved(pool) : pool,
    ...(external && { external }),
    hashBlocks: (...blocks) => loadNative().hashBlocks(...blocks),
    clock,
  });
  const sampler = new Sampler({
    suppressTokenIds: folder.generationConfig.suppressTokens,
    seed: config.seed,
  });
  const runner = new ModelRunner({ model: folder.model, pool, sampler, connector: connectorWorker });
  return {
    folder,
    pool,
    storage,
    events,
    agent,
    connectorScheduler,
    connectorWorker,
    scheduler,
    runner: new MeasuredRunner(runner, storage.costs, clock),
    clock,
    limits,
  };
}

function limitsOf({ cache, scheduler }: EngineConfig, { model }: ModelFolder): RequestLimits {
  // Block 0 is the null block.
  const kvCacheTokens = (cache.numBlocks - 1) * cache.blockSize;
  const maxModelLen = Math.min(scheduler.maxModelLen, model.maxPositionEmbeddings, kvCacheTokens);
  if (maxModelLen < scheduler.maxModelLen) {
    const { maxPositionEmbeddings } = model;
    log.info({ maxModelLen, maxPositionEmbeddings, kvCacheTokens }, 'sequences are shorter than configured');
  }
  return { vocabSize: model.vocabSize, maxModelLen, kvCacheTokens };
}

async function startEvents(config: KvEventsConfig, blockSize: number): Promise<KvEventParts> {
  const publisher = await KvEventPublisher.start(config);
  return { publisher, recorder: new KvEventRecorder(blockSize, (events) => publisher.publish(events)) };
}

/** The engine's loop must have ended. */
export async function closeParts({
  connectorWorker,
  storage,
  events,
  agent,
  folder,
  pool,
}: EngineParts): Promise<void> {
  events?.recorder.flush();
  await events?.publisher.close();
  await connectorWorker.close();
  await storage.stores.close();
  await agent.close();
  folder.model.close();
  pool.close();
}
