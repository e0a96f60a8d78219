// Hashes of many blocks at once: brings token ids into the form in which they cross, and hashes back.
import { VllmPdError } from '../errors.js';
import { type Addon, cross } from './addon.js';
import { toHashBytes, wholeNumber } from './arguments.js';

const hexDigits = 64;
/** In token ids. One call copies them in a quarter of a loop's time, but a block's in twice that. */
const longRun = 256;

/** Blocks behind `parent`; the first one's tokens begin at `begin`. */
export interface BlockChain {
  readonly parent: string;
  readonly tokenIds: readonly number[];
  readonly begin: number;
}

export class NativeBlockHash {
  readonly #addon: Addon;
  /** Both are used again and again: a long prompt would otherwise leave some hundred kilobytes of garbage. */
  #tokenIds = new Uint32Array(0);
  #hex = Buffer.alloc(0);

  constructor(addon: Addon) {
    this.#addon = addon;
  }

  hashBlocks(
    chains: readonly BlockChain[],
    numBlocks: number,
    blockSize: number,
    options?: { readonly portable?: boolean },
  ): string[] {
    const parents = toHashBytes(chains.map(({ parent }) => parent));
    const tokenIds = this.#take(chains, numBlocks, blockSize);
    const numHashes = chains.length * numBlocks;
    if (this.#hex.length < numHashes * hexDigits) this.#hex = Buffer.alloc(numHashes * hexDigits);
    const hex = this.#hex;
    cross(() => this.#addon.hashBlocks(parents, tokenIds, blockSize, options?.portable ?? false, hex));
    const hashes: string[] = [];
    for (let i = 0; i < numHashes; i += 1) {
      hashes.push(hex.toString('latin1', i * hexDigits, (i + 1) * hexDigits));
    }
    return hashes;
  }

  #take(chains: readonly BlockChain[], numBlocks: number, blockSize: number): Uint32Array {
    wholeNumber('numBlocks', numBlocks, 0);
    wholeNumber('blockSize', blockSize, 1, 2 ** 16);
    const numTokens = numBlocks * blockSize;
    const numTaken = chains.length * numTokens;
    if (this.#tokenIds.length < numTaken) this.#tokenIds = new Uint32Array(numTaken);
    const taken = this.#tokenIds;
    let end = 0;
    for (const { tokenIds, begin } of chains) {
      wholeNumber('begin', begin, 0);
      if (begin + numTokens > tokenIds.length) {
        throw new VllmPdError(
          'INVALID_ARGUMENT',
          `Expected at least ${begin + numTokens} token ids but received ${tokenIds.length}.`,
        );
      }
      if (numTokens >= longRun) {
        taken.set(numTokens === tokenIds.length ? tokenIds : tokenIds.slice(begin, begin + numTokens), end);
      } else {
        for (let i = 0; i < numTokens; i += 1) taken[end + i] = tokenIds[begin + i]!;
      }
      end += numTokens;
    }
    return taken.subarray(0, numTaken);
  }
}
