// Hashes of many blocks at once: brings token ids into the form in which they cross, and hashes back.
import { VllmPdError } from '../errors.js';
import { type Addon, cross } from './addon.js';
import { toHashBytes, wholeNumber } from './arguments.js';

const hexDigits = 64;

export class NativeBlockHash {
  readonly #addon: Addon;
  /** Both are used again and again: a long prompt would otherwise leave some hundred kilobytes of garbage. */
  #tokenIds = new Uint32Array(0);
  #hex = Buffer.alloc(0);

  constructor(addon: Addon) {
    this.#addon = addon;
  }

  hashBlocks(
    parent: string,
    allTokenIds: readonly number[],
    begin: number,
    numBlocks: number,
    blockSize: number,
    options?: { readonly portable?: boolean },
  ): string[] {
    const parentBytes = toHashBytes([parent]);
    const tokenIds = this.#take(allTokenIds, begin, numBlocks, blockSize);
    if (this.#hex.length < numBlocks * hexDigits) this.#hex = Buffer.alloc(numBlocks * hexDigits);
    const hex = this.#hex;
    cross(() => this.#addon.hashBlocks(parentBytes, tokenIds, blockSize, options?.portable ?? false, hex));
    const hashes: string[] = [];
    for (let i = 0; i < numBlocks; i += 1) {
      hashes.push(hex.toString('latin1', i * hexDigits, (i + 1) * hexDigits));
    }
    return hashes;
  }

  #take(tokenIds: readonly number[], begin: number, numBlocks: number, blockSize: number): Uint32Array {
    wholeNumber('begin', begin, 0);
    wholeNumber('numBlocks', numBlocks, 0);
    wholeNumber('blockSize', blockSize, 1, 2 ** 16);
    const numTokens = numBlocks * blockSize;
    if (begin + numTokens > tokenIds.length) {
      throw new VllmPdError(
        'INVALID_ARGUMENT',
        `Expected at least ${begin + numTokens} token ids but received ${tokenIds.length}.`,
      );
    }
    if (this.#tokenIds.length < numTokens) this.#tokenIds = new Uint32Array(numTokens);
    const taken = this.#tokenIds;
    taken.set(
      begin === 0 && numTokens === tokenIds.length ? tokenIds : tokenIds.slice(begin, begin + numTokens),
    );
    return taken.subarray(0, numTokens);
  }
}
