// Flattens a step's requests into the arrays that the model runs on: no padding, no per-request objects.
import type { ForwardInput } from '../native/model.js';
import type { ScheduledRequest } from '../outputs.js';

/** Requests that sample in this step, in the order of the rows of logits that `toForwardInput` asks for. */
export function samplingRequests(scheduled: readonly ScheduledRequest[]): readonly ScheduledRequest[] {
  return scheduled.filter((entry) => entry.samples);
}

export function toForwardInput(scheduled: readonly ScheduledRequest[]): ForwardInput {
  const numTokens = scheduled.reduce((sum, entry) => sum + entry.numScheduledTokens, 0);
  const numBlocks = scheduled.reduce((sum, entry) => sum + entry.blockIds.length, 0);
  const input = {
    tokenIds: new Int32Array(numTokens),
    positions: new Int32Array(numTokens),
    cuSeqlensQ: new Int32Array(scheduled.length + 1),
    blockTables: new Int32Array(numBlocks),
    cuBlocks: new Int32Array(scheduled.length + 1),
    logitsIndices: new Int32Array(samplingRequests(scheduled).length),
    sequences: scheduled.map((entry) => entry.request),
  };

  let token = 0;
  let block = 0;
  let row = 0;
  for (const [
    index,
    { request, numComputedTokens, numScheduledTokens, blockIds, samples },
  ] of scheduled.entries()) {
    for (let position = numComputedTokens; position < numComputedTokens + numScheduledTokens; position++) {
      input.tokenIds[token] = request.tokenIds[position]!;
      input.positions[token] = position;
      token++;
    }
    input.blockTables.set(blockIds, block);
    block += blockIds.length;
    input.cuSeqlensQ[index + 1] = token;
    input.cuBlocks[index + 1] = block;
    if (samples) input.logitsIndices[row++] = token - 1;
  }
  return input;
}
