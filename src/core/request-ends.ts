// How a request ends: it leaves its queue, its statistics are closed, its blocks are freed or kept for a peer.
import type { KVConnectorScheduler } from '../kv-transfer/connector.js';
import type { EngineCoreOutput } from '../outputs.js';
import type { FinishedStatus, Request } from '../request.js';
import type { Admission } from './admission.js';
import type { BlockHasher } from './block-hash.js';
import type { KVCacheManager } from './kv-cache-manager.js';
import type { PrefillTracker } from './prefill-tracker.js';
import { ongoing } from './request-outputs.js';
import type { RunningRequests } from './running-requests.js';

/** How a request ends, and what its last output says. */
export interface Ending {
  readonly status: FinishedStatus;
  readonly stopReason?: number | string | null;
  readonly error?: string;
}

export interface RequestEndsParts {
  readonly running: RunningRequests;
  readonly admission: Admission;
  readonly prefills: PrefillTracker;
  readonly kvCache: KVCacheManager;
  readonly hasher: BlockHasher;
  readonly connector: KVConnectorScheduler | null;
}

export class RequestEnds {
  readonly #parts: RequestEndsParts;

  constructor(parts: RequestEndsParts) {
    this.#parts = parts;
  }

  /** Returns the request's last output, without new tokens. */
  finish(request: Request, { status, stopReason = null, error }: Ending): EngineCoreOutput {
    const { running, admission, prefills } = this.#parts;
    const { requestId } = request;
    if (request.status === 'RUNNING') running.remove(request);
    else admission.remove(request);
    request.status = status;
    request.stopReason = stopReason;
    prefills.ended(request, request.numComputedTokens);
    return {
      ...ongoing,
      requestId,
      finished: status,
      stopReason,
      kvTransferParams: this.#leaveBlocks(request),
      prefillStats: request.prefillStats,
      error: error ?? null,
    };
  }

  /** Frees the request's blocks, or keeps those with KV for a peer; those that are being loaded are kept until that ends. */
  #leaveBlocks(request: Request): EngineCoreOutput['kvTransferParams'] {
    const { admission, kvCache, hasher, connector } = this.#parts;
    if (!admission.wasAdmitted(request)) {
      connector?.requestDropped(request);
      return null;
    }
    // While a load goes on nothing can be offered, nor freed.
    const isLoading = admission.isLoading(request);
    const numTokens = isLoading ? 0 : request.numComputedTokens;
    const numBlocks = Math.ceil(numTokens / kvCache.blockSize);
    const blockIds = kvCache.getBlockIds(request).slice(0, numBlocks);
    const decision = connector?.requestFinished(request, blockIds, numTokens);
    if (decision?.holdBlocks) {
      kvCache.holdRequest(request, hasher.prefixHashes(request, numTokens));
    } else if (!isLoading) {
      kvCache.free(request);
    }
    return decision?.kvTransferParams ?? null;
  }
}
