// Answers to one prompt that one call asked for (`n`): what vLLM counts of them together, once the last one has ended.

export interface SampleGroupStats {
  readonly numSamples: number;
  /** Of the longest one. */
  readonly maxGenerationTokens: number;
}

export class SampleGroup {
  readonly #numSamples: number;
  #numEnded = 0;
  #maxGenerationTokens = 0;

  constructor(numSamples: number) {
    this.#numSamples = numSamples;
  }

  /** Null while others have not ended. */
  ended(numGenerationTokens: number): SampleGroupStats | null {
    this.#numEnded += 1;
    this.#maxGenerationTokens = Math.max(this.#maxGenerationTokens, numGenerationTokens);
    if (this.#numEnded < this.#numSamples) return null;
    return { numSamples: this.#numSamples, maxGenerationTokens: this.#maxGenerationTokens };
  }
}
