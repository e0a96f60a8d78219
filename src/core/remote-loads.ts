// Requests in WAITING_FOR_REMOTE_KVS: their blocks are being filled by the connector, and are nobody else's until it says so.
import type { PullOutcome } from '../kv-transfer/connector.js';
import type { Request } from '../request.js';

export interface RemoteLoad {
  readonly request: Request;
  readonly numLocalTokens: number;
  readonly numExternalTokens: number;
}

export interface EndedLoad extends RemoteLoad {
  readonly outcome: PullOutcome;
  /** Of the external tokens, those before the first block that did not arrive. */
  readonly numArrivedTokens: number;
}

export class RemoteLoads {
  readonly #blockSize: number;
  readonly #pending = new Map<string, RemoteLoad>();
  readonly #invalidBlockIds = new Set<number>();

  constructor(blockSize: number) {
    this.#blockSize = blockSize;
  }

  /** Aborted requests whose load goes on are counted too. */
  get size(): number {
    return this.#pending.size;
  }

  /** Requests that wait for their load; aborted ones do not any more. */
  requests(): Request[] {
    const all = Array.from(this.#pending.values(), ({ request }) => request);
    return all.filter((request) => !request.isFinished);
  }

  begin(load: RemoteLoad): void {
    this.#pending.set(load.request.requestId, load);
  }

  has(request: Request): boolean {
    return this.#pending.get(request.requestId)?.request === request;
  }

  hasId(requestId: string): boolean {
    return this.#pending.has(requestId);
  }

  markInvalid(blockIds: readonly number[]): void {
    for (const blockId of blockIds) this.#invalidBlockIds.add(blockId);
  }

  /** Null when no load of that id is pending. `blockIds`: the request's table. */
  end(outcome: PullOutcome, blockIdsOf: (request: Request) => readonly number[]): EndedLoad | null {
    const load = this.#pending.get(outcome.requestId);
    if (!load) return null;
    this.#pending.delete(outcome.requestId);
    const numArrivedTokens = this.#countArrived(load, blockIdsOf(load.request));
    const { failure } = outcome;
    if (numArrivedTokens === load.numExternalTokens && failure) {
      // Failed, yet no block was named: then none can be relied on.
      return { ...load, outcome, numArrivedTokens: 0 };
    }
    const isIncomplete = numArrivedTokens < load.numExternalTokens;
    return {
      ...load,
      outcome: isIncomplete && !failure ? { ...outcome, failure: 'transfer_failed' } : outcome,
      numArrivedTokens,
    };
  }

  #countArrived(load: RemoteLoad, blockIds: readonly number[]): number {
    const { numLocalTokens, numExternalTokens } = load;
    const firstBlock = numLocalTokens / this.#blockSize;
    const loaded = blockIds.slice(
      firstBlock,
      Math.ceil((numLocalTokens + numExternalTokens) / this.#blockSize),
    );
    const firstInvalid = loaded.findIndex((blockId) => this.#invalidBlockIds.has(blockId));
    for (const blockId of loaded) this.#invalidBlockIds.delete(blockId);
    return firstInvalid < 0 ? numExternalTokens : firstInvalid * this.#blockSize;
  }
}
