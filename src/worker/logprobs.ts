// Log probabilities of a sampled token and of its best alternatives, from the model's own logits.
import type { TokenLogprobs } from '../outputs.js';

/** JSON has no -Infinity; vLLM reports this instead. */
const minLogprob = -9999;

/** ln Σ exp(logit) over the row. */
function logSumExp(logits: Float32Array): number {
  let max = Number.NEGATIVE_INFINITY;
  for (const logit of logits) if (logit > max) max = logit;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  return max + Math.log(sum);
}

/** Ids of the `count` largest logits, largest first, ties by id. */
function topTokenIds(logits: Float32Array, count: number): number[] {
  const top: number[] = [];
  if (count === 0) return top;
  for (let tokenId = 0; tokenId < logits.length; tokenId++) {
    const logit = logits[tokenId]!;
    if (top.length === count && logit <= logits[top[count - 1]!]!) continue;
    let place = top.length;
    while (place > 0 && logits[top[place - 1]!]! < logit) place--;
    top.splice(place, 0, tokenId);
    if (top.length > count) top.pop();
  }
  return top;
}

/**
 * `logits`: the row as the model gave it, before penalties, biases and temperature (vLLM's `raw_logprobs`). `wanted`: how
 * many alternatives, the most likely ones, or the ids of those.
 */
export function tokenLogprobs(
  logits: Float32Array,
  tokenId: number,
  wanted: number | readonly number[],
): TokenLogprobs {
  const total = logSumExp(logits);
  const own = logits[tokenId]!;
  let rank = 1;
  for (const logit of logits) if (logit > own) rank++;
  const logprob = (id: number) => Math.max(logits[id]! - total, minLogprob);
  const ids = typeof wanted === 'number' ? topTokenIds(logits, wanted) : wanted;
  const top = ids.map((id) => ({ tokenId: id, logprob: logprob(id) }));
  return { tokenId, logprob: logprob(tokenId), rank, top };
}
