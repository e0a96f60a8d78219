// What it costs to read KV from somewhere, or to compute it again: fitted to what was measured on this node.
import type { StoreTier } from '../kv-store/kv-store.js';

/** Where a block of a load comes from. */
export type BlockSource = 'peer' | StoreTier;

/** What counts of a measurement after each newer one: about the last forty decide. */
const decay = 0.95;

/** Milliseconds as latency + x * slope, least squares over what was measured, the newest counting most. */
export class LinearFit {
  #weight = 0;
  #x = 0;
  #y = 0;
  #xx = 0;
  #xy = 0;

  /** `prior`: two points that stand for what nobody has measured yet; they fade like all others. */
  constructor(prior: { readonly latencyMs: number; readonly slope: number; readonly typicalX: number }) {
    for (const x of [prior.typicalX / 4, prior.typicalX]) this.#add(x, prior.latencyMs + prior.slope * x);
  }

  observe(x: number, ms: number): void {
    if (!(x > 0) || !(ms >= 0)) return;
    this.#weight *= decay;
    this.#x *= decay;
    this.#y *= decay;
    this.#xx *= decay;
    this.#xy *= decay;
    this.#add(x, ms);
  }

  predict(x: number): number {
    const spread = this.#weight * this.#xx - this.#x * this.#x;
    // The slope at which the latency is nothing.
    const steepest = this.#y / this.#x;
    // Neither a latency nor a rate is negative, whatever noise says.
    const fitted = spread > 0 ? (this.#weight * this.#xy - this.#x * this.#y) / spread : steepest;
    const slope = Math.min(Math.max(0, fitted), steepest);
    return Math.max(0, (this.#y - slope * this.#x) / this.#weight) + slope * x;
  }

  #add(x: number, ms: number): void {
    this.#weight += 1;
    this.#x += x;
    this.#y += ms;
    this.#xx += x * x;
    this.#xy += x * ms;
  }
}

/** Sane guesses for a machine that has measured nothing: ms, and ms per KiB or token. */
const priors = {
  peer: { latencyMs: 1, slope: 1 / 1024, typicalX: 4096 },
  dedicated: { latencyMs: 1, slope: 1 / 512, typicalX: 4096 },
  shared: { latencyMs: 3, slope: 1 / 256, typicalX: 4096 },
  prefill: { latencyMs: 2, slope: 0.5, typicalX: 512 },
} as const;

export class TransferCosts {
  readonly #reads: Readonly<Record<BlockSource, LinearFit>> = {
    peer: new LinearFit(priors.peer),
    dedicated: new LinearFit(priors.dedicated),
    shared: new LinearFit(priors.shared),
  };
  readonly #prefill = new LinearFit(priors.prefill);

  observeRead(source: BlockSource, numBytes: number, ms: number): void {
    this.#reads[source].observe(numBytes / 1024, ms);
  }

  /** One step of the model. */
  observePrefill(numTokens: number, ms: number): void {
    this.#prefill.observe(numTokens, ms);
  }

  readMs(source: BlockSource, numBytes: number): number {
    return numBytes === 0 ? 0 : this.#reads[source].predict(numBytes / 1024);
  }

  prefillMs(numTokens: number): number {
    return numTokens === 0 ? 0 : this.#prefill.predict(numTokens);
  }
}
