// Counter-based random numbers: a draw depends on its seed and its counter only, never on what was drawn before.

/** Finaliser of MurmurHash3 (Appleby, public domain): every bit of the result depends on every bit of `x`. */
function mix(x: number): number {
  let h = x | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/** Uniform in [0, 1) with 53 random bits. `seed`: any safe integer; `counter`: a position, 0 ≤ counter < 2^32. */
export function uniform(seed: number, counter: number): number {
  const low = seed | 0;
  const high = Math.floor(seed / 2 ** 32) | 0;
  const key = mix(low ^ mix(high + 0x9e3779b9));
  const a = mix(key ^ mix(counter + 0x7f4a7c15)) >>> 5;
  const b = mix(key + mix(counter ^ 0x2545f491)) >>> 6;
  return (a * 2 ** 26 + b) / 2 ** 53;
}

/** A seed for a request that brought none, from the engine's seed and the request's id (FNV-1a, then mixed). */
export function seedOf(engineSeed: number, requestId: string): number {
  let h = 0x811c9dc5 ^ mix(engineSeed);
  for (let i = 0; i < requestId.length; i++) h = Math.imul(h ^ requestId.charCodeAt(i), 0x01000193);
  return mix(h) >>> 0;
}
