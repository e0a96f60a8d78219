// The connector's worker half: starts reads, tells the owners when they ended, reports what arrived.
import { defaults } from '../engine-options.js';
import { messageOf } from '../errors.js';
import { createLogger } from '../log.js';
import type { KvPool } from '../native/kv-pool.js';
import type {
  FinishedPull,
  FinishedSend,
  KVConnectorMetadata,
  KVConnectorOutput,
  PullSpec,
  ReadTiming,
  RemoteBlocks,
  StoreLoadSpec,
  StoreReads,
} from '../outputs.js';
import type { TransferAgent } from './agent.js';
import type { KVConnectorWorker } from './connector.js';
import type { BlockStores } from './store-lookups.js';
import { readTiered } from './tiered-read.js';

export interface PullConnectorWorkerOptions {
  /** Stays the caller's: close it after the worker. */
  readonly agent: TransferAgent;
  readonly pool: KvPool;
  /** Whether this node still holds blocks under that id; the scheduler half knows. */
  readonly isHeld: (requestId: string) => boolean;
  /** Null or absent = there are none. */
  readonly stores?: Pick<BlockStores, 'read'> | null;
  /** A read that takes longer is given up, and its tokens are computed instead. */
  readonly readTimeoutMs?: number;
}

/** A load as the worker runs it, from wherever its blocks come. */
interface Load {
  readonly requestId: string;
  /** Who is told when it has ended; null = nobody. */
  readonly remote: RemoteBlocks | null;
  readonly localBlockIds: readonly number[];
  read(signal: AbortSignal): Promise<{
    readonly valid: Uint8Array;
    readonly numBytes: number;
    readonly stores?: StoreReads;
    readonly timings?: readonly ReadTiming[];
  }>;
}

/** How long `close` waits for notifications that are under way. */
const lastNotifsMs = 1000;

export class PullConnectorWorker implements KVConnectorWorker {
  readonly #agent: TransferAgent;
  readonly #pool: KvPool;
  readonly #stores: Pick<BlockStores, 'read'> | null;
  readonly #readTimeoutMs: number;
  readonly #logger = createLogger('kv-transfer');
  readonly #aborts = new Set<AbortController>();
  readonly #reads = new Set<Promise<void>>();
  readonly #notifs = new Set<Promise<boolean | null>>();
  #finishedSending: FinishedSend[] = [];
  #finishedRecving: FinishedPull[] = [];
  #invalidBlockIds: number[] = [];
  #wake: () => void = () => {};

  constructor({
    agent,
    pool,
    isHeld,
    stores = null,
    readTimeoutMs = defaults.kvReadTimeoutMs,
  }: PullConnectorWorkerOptions) {
    this.#agent = agent;
    this.#pool = pool;
    this.#stores = stores;
    this.#readTimeoutMs = readTimeoutMs;
    agent.onNotif((notif) => {
      const wasHeld = isHeld(notif.requestId);
      this.#finishedSending.push(notif);
      this.#wake();
      return wasHeld;
    });
  }

  startLoadKv({ pulls, storeLoads = [] }: KVConnectorMetadata): void {
    for (const pull of pulls) {
      // A bare notification is not a load: nobody waits for it, so it is not reported.
      if (pull.remoteBlockIds.length === 0) void this.#notify(pull.remote, 0);
      else void this.#track(this.#reads, this.#load(this.#pullLoad(pull)));
    }
    for (const spec of storeLoads) void this.#track(this.#reads, this.#load(this.#tieredLoad(spec)));
  }

  getFinished(): KVConnectorOutput | null {
    if (this.#finishedSending.length === 0 && this.#finishedRecving.length === 0) return null;
    const output: KVConnectorOutput = {
      finishedSending: this.#finishedSending,
      finishedRecving: this.#finishedRecving,
      invalidBlockIds: this.#invalidBlockIds,
    };
    this.#finishedSending = [];
    this.#finishedRecving = [];
    this.#invalidBlockIds = [];
    return output;
  }

  onProgress(wake: () => void): void {
    this.#wake = wake;
  }

  get numPendingLoads(): number {
    return this.#reads.size;
  }

  /** Gives up reads under way and waits until none can write into the pool any more. */
  async close(): Promise<void> {
    this.#wake = () => {};
    for (const abort of this.#aborts) abort.abort();
    await Promise.all(this.#reads);
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, lastNotifsMs);
    });
    await Promise.race([Promise.all(this.#notifs), limit]);
    clearTimeout(timer);
  }

  #pullLoad(pull: PullSpec): Load {
    const { requestId, remote, localBlockIds } = pull;
    return { requestId, remote, localBlockIds, read: (signal) => this.#agent.read(pull, this.#pool, signal) };
  }

  #tieredLoad(spec: StoreLoadSpec): Load {
    const { requestId, localBlockIds, pull } = spec;
    const stores = this.#stores ?? { read: async (_, hashes) => hashes.map(() => null) };
    const parts = { agent: this.#agent, pool: this.#pool, stores };
    const remote = pull?.remote ?? null;
    return { requestId, remote, localBlockIds, read: (signal) => readTiered(spec, parts, signal) };
  }

  async #load({ requestId, remote, localBlockIds, read }: Load): Promise<void> {
    const startedAtMs = performance.now();
    const abort = new AbortController();
    this.#aborts.add(abort);
    const timer = setTimeout(() => abort.abort(), this.#readTimeoutMs);
    let numValidBlocks = 0;
    let result: Awaited<ReturnType<Load['read']>> | null = null;
    let failure: FinishedPull['failure'] = null;
    try {
      result = await read(abort.signal);
      const firstInvalid = result.valid.indexOf(0);
      numValidBlocks = firstInvalid === -1 ? localBlockIds.length : firstInvalid;
      if (firstInvalid !== -1) failure = 'stale';
    } catch (error) {
      this.#logger.warn(`Blocks for ${requestId} were not read: ${messageOf(error)}`);
      failure = 'failed';
    } finally {
      clearTimeout(timer);
      this.#aborts.delete(abort);
    }
    const transferMs = performance.now() - startedAtMs;
    const notified = remote && this.#notify(remote, numValidBlocks);
    // Only the owner knows whether its hold had ended by then; a good load does not wait for what it says.
    if (failure === 'stale' && (await notified) === false) failure = 'expired';
    this.#finishedRecving.push({
      requestId,
      numBlocks: numValidBlocks,
      numBytes: result?.numBytes ?? 0,
      transferMs,
      failure,
      ...(result?.stores && { stores: result.stores, timings: result.timings ?? [] }),
    });
    // KV behind a hole is of no use: everything from the first bad block on is computed again.
    this.#invalidBlockIds.push(...localBlockIds.slice(numValidBlocks));
    this.#wake();
  }

  #notify(remote: RemoteBlocks, numBlocks: number): Promise<boolean | null> {
    return this.#track(this.#notifs, this.#agent.sendNotif(remote, numBlocks));
  }

  #track<T>(set: Set<Promise<T>>, work: Promise<T>): Promise<T> {
    set.add(work);
    void work.finally(() => set.delete(work));
    return work;
  }
}
