// Which tokens ever had KV on this node: outlives eviction and holds no KV itself, so that the ledger can say why.
import type { Request } from '../request.js';
import type { BlockHash } from '../wire.js';
import type { BlockHasher } from './block-hash.js';

/** How far a prompt repeats what this node once had KV for, in tokens from position 0. */
export interface KnownTokens {
  /** In full blocks, which were cached once. */
  readonly numFullBlockTokens: number;
  /** With the partial last block of an earlier sequence, which never was. */
  readonly numTokens: number;
  /** The session's previous sequence; null when there is none. */
  readonly previous: PreviousSequence | null;
}

export interface PreviousSequence {
  /** Tokens that had KV. */
  readonly numTokens: number;
  /** Of these, how many the prompt begins with. */
  readonly numCommonTokens: number;
}

interface Sequence {
  readonly tokenIds: Uint32Array;
  readonly cacheSalt: string | null;
}

export interface TokenHistoryLimits {
  readonly maxHashes: number;
  /** Of all remembered sequences of sessions together. */
  readonly maxSessionTokens: number;
}

/** About 16 MB each. */
const defaultLimits: TokenHistoryLimits = { maxHashes: 1 << 17, maxSessionTokens: 1 << 22 };

export class TokenHistory {
  readonly #hasher: BlockHasher;
  readonly #limits: TokenHistoryLimits;
  /** Full blocks, and the partial tails of sequences; the oldest first. */
  readonly #hashes = new Set<BlockHash>();
  /** The latest finished sequence of each session; the oldest first. */
  readonly #sessions = new Map<string, Sequence>();
  #numSessionTokens = 0;

  constructor(hasher: BlockHasher, limits: TokenHistoryLimits = defaultLimits) {
    this.#hasher = hasher;
    this.#limits = limits;
  }

  /** The first `numTokens` of the request have KV here. */
  recordTokens(request: Request, numTokens: number): void {
    for (const hash of this.#hasher.prefixHashes(request, numTokens)) {
      this.#hashes.delete(hash);
      this.#hashes.add(hash);
    }
    for (const oldest of this.#hashes) {
      if (this.#hashes.size <= this.#limits.maxHashes) break;
      this.#hashes.delete(oldest);
    }
  }

  /** The request ended with KV for its first `numTokens`: what its session's next prompt is compared with. */
  recordSequence(request: Request, numTokens: number): void {
    const { sessionId, cacheSalt } = request;
    if (sessionId === null) return;
    this.#forgetSession(sessionId);
    const tokenIds = Uint32Array.from({ length: numTokens }, (_, i) => request.tokenIds[i]!);
    this.#sessions.set(sessionId, { tokenIds, cacheSalt });
    this.#numSessionTokens += numTokens;
    for (const oldest of this.#sessions.keys()) {
      if (this.#numSessionTokens <= this.#limits.maxSessionTokens) break;
      this.#forgetSession(oldest);
    }
  }

  /** What of the prompt is known. Has no effect. */
  recall(request: Request): KnownTokens {
    const { blockSize } = this.#hasher;
    const numPromptBlocks = Math.floor(request.numPromptTokens / blockSize);
    let numBlocks = numPromptBlocks;
    // The longest known chain: each hash names everything before it too.
    while (numBlocks > 0 && !this.#hashes.has(request.blockHashes[numBlocks - 1]!)) numBlocks -= 1;
    const previous = this.#compareWithSession(request);
    const numCommonTokens = previous?.numCommonTokens ?? 0;
    const numFullBlockTokens = Math.max(
      numBlocks * blockSize,
      numCommonTokens - (numCommonTokens % blockSize),
    );
    const numTokens = Math.max(numBlocks * blockSize + this.#tailLength(request, numBlocks), numCommonTokens);
    return { numFullBlockTokens, numTokens: Math.max(numTokens, numFullBlockTokens), previous };
  }

  /** Tokens of block `blockIndex` that were the whole tail of an earlier sequence. */
  #tailLength(request: Request, blockIndex: number): number {
    const { blockSize } = this.#hasher;
    const longest = Math.min(blockSize - 1, request.numPromptTokens - blockIndex * blockSize);
    for (let length = longest; length > 0; length -= 1) {
      if (this.#hashes.has(this.#hasher.hashPartial(request, blockIndex, length))) return length;
    }
    return 0;
  }

  #compareWithSession(request: Request): PreviousSequence | null {
    const sequence = request.sessionId === null ? undefined : this.#sessions.get(request.sessionId);
    if (!sequence || sequence.cacheSalt !== request.cacheSalt) return null;
    const { tokenIds } = sequence;
    const end = Math.min(tokenIds.length, request.numPromptTokens);
    let numCommonTokens = 0;
    while (numCommonTokens < end && tokenIds[numCommonTokens] === request.tokenIds[numCommonTokens]) {
      numCommonTokens += 1;
    }
    return { numTokens: tokenIds.length, numCommonTokens };
  }

  #forgetSession(sessionId: string): void {
    this.#numSessionTokens -= this.#sessions.get(sessionId)?.tokenIds.length ?? 0;
    this.#sessions.delete(sessionId);
  }
}
