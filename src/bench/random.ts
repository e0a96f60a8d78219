// Seeded random numbers that are the same on every machine, so that a workload's seed fixes its conversations.

/** 32-bit FNV-1a: spreads labels such as "7/turns" over the seed space. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  }
  return hash >>> 0;
}

/** sfc32 (Chris Doty-Humphrey's "small fast counting" generator), 32 bits at a time. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** Streams of different labels are independent: drawing more from one does not shift another. */
  constructor(seed: number, label: string) {
    this.#a = fnv1a(`a/${seed}/${label}`);
    this.#b = fnv1a(`b/${seed}/${label}`);
    this.#c = fnv1a(`c/${seed}/${label}`);
    for (let i = 0; i < 15; i++) this.#next32();
  }

  #next32(): number {
    const result = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + result) | 0;
    return result >>> 0;
  }

  /** Uniform in [0, 1). */
  next(): number {
    return this.#next32() / 0x1_0000_0000;
  }

  /** Uniform among the integers min … max, both included. */
  integer(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1));
  }

  /** Standard normal (Box-Muller). */
  normal(): number {
    // 1 - next() lies in (0, 1]: its logarithm is finite.
    return Math.sqrt(-2 * Math.log(1 - this.next())) * Math.cos(2 * Math.PI * this.next());
  }

  /** Gamma with a mean of `shape` (Marsaglia and Tsang, "A simple method for generating gamma variables", 2000). */
  gamma(shape: number): number {
    // Below 1: a variate of shape + 1, made smaller by a power of a uniform one.
    if (shape < 1) return this.gamma(shape + 1) * (1 - this.next()) ** (1 / shape);
    const d = shape - 1 / 3;
    for (;;) {
      const x = this.normal();
      const v = (1 + x / Math.sqrt(9 * d)) ** 3;
      if (v > 0 && Math.log(1 - this.next()) < 0.5 * x * x + d * (1 - v + Math.log(v))) return d * v;
    }
  }
}
