// Names of blocks: the SHA-256 chain over canonical CBOR that vLLM calls `sha256_cbor`, equal on every node.
import { hash } from 'node:crypto';
import { VllmPdError } from '../errors.js';
import type { Request } from '../request.js';
import type { BlockHash } from '../wire.js';

const maxTokenId = 0xffff_ffff;

/** Throws INVALID_ARGUMENT unless every id is an integer that fits in 32 bits. */
export function assertTokenIds(tokenIds: readonly number[]): void {
  for (let position = 0; position < tokenIds.length; position += 1) {
    const tokenId = tokenIds[position]!;
    if (tokenId >>> 0 !== tokenId) {
      throw new VllmPdError(
        'INVALID_ARGUMENT',
        `Expected token ids from 0 to ${maxTokenId} but received ${tokenId} at position ${position}`,
        { param: 'prompt' },
      );
    }
  }
}

/** Blocks behind `parent`; the first one's tokens begin at `begin`. */
export interface BlockChain {
  readonly parent: BlockHash;
  readonly tokenIds: readonly number[];
  readonly begin: number;
}

/**
 * Hashes of `numBlocks` full blocks of each chain, none of them with extra keys, one chain after the other: what
 * `BlockHasher` computes one by one, for somebody who can do many at once.
 */
export type HashBlocks = (
  chains: readonly BlockChain[],
  numBlocks: number,
  blockSize: number,
) => readonly BlockHash[];

/** Fewer are hashed here: crossing over costs more. */
const minBlocksAtOnce = 4;

/** What a hash is computed over; a `Request` has this shape. */
type Hashed = Pick<Request, 'tokenIds' | 'cacheSalt' | 'blockHashes'>;

/**
 * hash = SHA-256(CBOR([parent, [token ids], null or [extra keys]])); block 0's parent is the hash of the seed, and
 * only block 0 names the cache salt, since all others follow from it.
 */
export class BlockHasher {
  readonly blockSize: number;
  readonly noneHash: BlockHash;
  readonly #hashBlocks: HashBlocks | null;
  #buffer: Buffer;
  #end = 0;

  /** `hashBlocks`: null = every block is hashed here. */
  constructor(blockSize: number, hashSeed: string, hashBlocks: HashBlocks | null = null) {
    this.blockSize = blockSize;
    this.#hashBlocks = hashBlocks;
    // Array heads and the parent, then at most 5 bytes a token.
    this.#buffer = Buffer.alloc(64 + 5 * blockSize);
    this.noneHash = this.#digest(() => this.#writeText(hashSeed));
  }

  /** Appends the hashes of full blocks that `blockHashes` lacks. Token ids must be checked. */
  extend(request: Hashed): void {
    const { blockHashes, tokenIds } = request;
    const numBlocks = Math.floor(tokenIds.length / this.blockSize);
    if (this.#hashBlocks && numBlocks - blockHashes.length >= minBlocksAtOnce) {
      this.#extendAtOnce(request, numBlocks, this.#hashBlocks);
    }
    while (blockHashes.length < numBlocks) {
      blockHashes.push(this.#hashBlock(request, blockHashes.length, this.blockSize));
    }
  }

  /** As `extend`, of many requests of which each has mostly completed one block. */
  extendAll(requests: readonly Hashed[]): void {
    const grown: Hashed[] = [];
    for (const request of requests) {
      if (this.#lacksOnePlainHash(request)) grown.push(request);
      else this.extend(request);
    }
    if (!this.#hashBlocks || grown.length < minBlocksAtOnce) {
      for (const request of grown) this.extend(request);
      return;
    }
    const chains = grown.map((request) => this.#chainOf(request));
    const hashes = this.#hashBlocks(chains, 1, this.blockSize);
    for (let i = 0; i < hashes.length; i += 1) grown[i]!.blockHashes.push(hashes[i]!);
  }

  /**
   * Hash of the first `numTokens` (1 … blockSize) tokens of a block, encoded as a full block would be. The blocks
   * before it must be in `blockHashes`.
   */
  hashPartial(request: Hashed, blockIndex: number, numTokens: number): BlockHash {
    return this.#hashBlock(request, blockIndex, numTokens);
  }

  /** One hash a block of the first `numTokens` tokens; the last block may be partial. `blockHashes` must be extended. */
  prefixHashes(request: Hashed, numTokens: number): BlockHash[] {
    const numFullBlocks = Math.floor(numTokens / this.blockSize);
    const hashes = request.blockHashes.slice(0, numFullBlocks);
    const numTailTokens = numTokens - numFullBlocks * this.blockSize;
    if (numTailTokens > 0) hashes.push(this.hashPartial(request, numFullBlocks, numTailTokens));
    return hashes;
  }

  #extendAtOnce(request: Hashed, numBlocks: number, hashBlocks: HashBlocks): void {
    const { blockHashes, cacheSalt } = request;
    // The only block with extra keys.
    if (blockHashes.length === 0 && cacheSalt !== null) {
      blockHashes.push(this.#hashBlock(request, 0, this.blockSize));
    }
    const numMissing = numBlocks - blockHashes.length;
    const hashes = hashBlocks([this.#chainOf(request)], numMissing, this.blockSize);
    for (const hash of hashes) blockHashes.push(hash);
  }

  /** Of a single block, and one without extra keys. */
  #lacksOnePlainHash({ tokenIds, cacheSalt, blockHashes: { length } }: Hashed): boolean {
    const isPlain = cacheSalt === null || length > 0;
    return isPlain && Math.floor(tokenIds.length / this.blockSize) === length + 1;
  }

  /** Behind the blocks that have their hash. */
  #chainOf({ tokenIds, blockHashes }: Hashed): BlockChain {
    const { length } = blockHashes;
    const parent = length === 0 ? this.noneHash : blockHashes[length - 1]!;
    return { parent, tokenIds, begin: length * this.blockSize };
  }

  #hashBlock(request: Hashed, blockIndex: number, numTokens: number): BlockHash {
    const { tokenIds, cacheSalt, blockHashes } = request;
    const begin = blockIndex * this.blockSize;
    const parent = blockIndex === 0 ? this.noneHash : blockHashes[blockIndex - 1]!;
    return this.#digest(() => {
      this.#writeHead(majorType.array, 3);
      this.#writeHash(parent);
      this.#writeHead(majorType.array, numTokens);
      for (let position = begin; position < begin + numTokens; position += 1) {
        this.#writeHead(majorType.unsigned, tokenIds[position]!);
      }
      if (blockIndex === 0 && cacheSalt !== null) {
        this.#writeHead(majorType.array, 1);
        this.#writeText(cacheSalt);
      } else {
        this.#end = this.#buffer.writeUInt8(cborNull, this.#end);
      }
    });
  }

  #digest(encode: () => void): BlockHash {
    this.#end = 0;
    encode();
    return hash('sha256', this.#buffer.subarray(0, this.#end), 'hex');
  }

  /** Canonical: the shortest of the five lengths that holds the value. Bytes one by one: it runs once a token. */
  #writeHead(type: number, value: number): void {
    const buffer = this.#buffer;
    let end = this.#end;
    if (value < 24) {
      buffer[end++] = type | value;
    } else if (value <= 0xff) {
      buffer[end++] = type | 24;
      buffer[end++] = value;
    } else if (value <= 0xffff) {
      buffer[end++] = type | 25;
      buffer[end++] = value >>> 8;
      buffer[end++] = value;
    } else {
      buffer[end++] = type | 26;
      buffer[end++] = value >>> 24;
      buffer[end++] = value >>> 16;
      buffer[end++] = value >>> 8;
      buffer[end++] = value;
    }
    this.#end = end;
  }

  #writeHash(hash: BlockHash): void {
    this.#writeHead(majorType.bytes, hash.length / 2);
    this.#end += this.#buffer.write(hash, this.#end, 'hex');
  }

  #writeText(text: string): void {
    const numBytes = Buffer.byteLength(text);
    this.#reserve(numBytes + 8);
    this.#writeHead(majorType.text, numBytes);
    this.#end += this.#buffer.write(text, this.#end);
  }

  #reserve(numBytes: number): void {
    if (this.#end + numBytes <= this.#buffer.length) return;
    const grown = Buffer.alloc(this.#end + numBytes);
    this.#buffer.copy(grown);
    this.#buffer = grown;
  }
}

/** The upper three bits of a CBOR head. */
const majorType = { unsigned: 0x00, bytes: 0x40, text: 0x60, array: 0x80 } as const;
const cborNull = 0xf6;
