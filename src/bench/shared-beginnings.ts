// Which conversations begin alike: what one finds in a cache may then be another one's, and lengths alone do not say.

/**
 * `own`: no other conversation has its first block. `alike`: it shares blocks with others and then differs from each within
 * both first prompts, so that only who computes the shared blocks first depends on the order of play. `contained`: it begins
 * with another one's whole first prompt, or that with its own, and may go on like it.
 */
export type Beginning = 'own' | 'alike' | 'contained';

/** By conversation; `firstPrompts` as token ids. */
export function beginningsOf(
  firstPrompts: ReadonlyMap<string, readonly number[]>,
  blockSize: number,
): ReadonlyMap<string, Beginning> {
  const sorted = [...firstPrompts].sort(([, a], [, b]) => compare(a, b));
  const beginnings = new Map<string, Beginning>(sorted.map(([id]) => [id, 'own']));
  for (const [i, [id, prompt]] of sorted.entries()) {
    const next = sorted[i + 1];
    if (next && numCommon(prompt, next[1]) >= Math.min(blockSize, prompt.length, next[1].length)) {
      for (const one of [id, next[0]]) if (beginnings.get(one) === 'own') beginnings.set(one, 'alike');
    }
    // Those that begin with this prompt follow it, without a gap.
    for (let j = i + 1; j < sorted.length && numCommon(prompt, sorted[j]![1]) === prompt.length; j++) {
      beginnings.set(id, 'contained').set(sorted[j]![0], 'contained');
    }
  }
  return beginnings;
}

function numCommon(a: readonly number[], b: readonly number[]): number {
  const end = a.findIndex((tokenId, i) => tokenId !== b[i]);
  return end === -1 ? a.length : end;
}

/** As words in a dictionary. */
function compare(a: readonly number[], b: readonly number[]): number {
  const at = numCommon(a, b);
  if (at === a.length || at === b.length) return a.length - b.length;
  return a[at]! - b[at]!;
}
