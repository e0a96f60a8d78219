// Flattens a step's requests into the arrays that the model runs on: no padding, no per-request objects.
import type { ForwardInput } from '../native/model.js';
import type { ScheduledRequest } from '../outputs.js';

/**
 * Leading tokens of the request's share whose logits say what their prompt's next token was worth: all but the prompt's
 * last one, where log probabilities of the prompt are wanted.
 */
export function numPromptRows({ request, numComputedTokens, numScheduledTokens }: ScheduledRequest): number {
  if (!request.needsPromptLogprobs) return 0;
  const end = Math.min(numComputedTokens + numScheduledTokens, request.numPromptTokens - 1);
  return Math.max(0, end - numComputedTokens);
}

/** Rows of logits: for each request those of its prompt, then the one that it samples from. */
export function toForwardInput(scheduled: readonly ScheduledRequest[]): ForwardInput {
  const numTokens = scheduled.reduce((sum, entry) => sum + entry.numScheduledTokens, 0);
  const numRows = scheduled.reduce((sum, entry) => sum + numPromptRows(entry) + (entry.samples ? 1 : 0), 0);
  const numBlocks = scheduled.reduce((sum, entry) => sum + entry.blockIds.length, 0);
  const input = {
    tokenIds: new Int32Array(numTokens),
    positions: new Int32Array(numTokens),
    cuSeqlensQ: new Int32Array(scheduled.length + 1),
    blockTables: new Int32Array(numBlocks),
    cuBlocks: new Int32Array(scheduled.length + 1),
    logitsIndices: new Int32Array(numRows),
    sequences: scheduled.map((entry) => entry.request),
  };

  let token = 0;
  let block = 0;
  let row = 0;
  for (const [index, entry] of scheduled.entries()) {
    const { request, numComputedTokens, numScheduledTokens, blockIds, samples } = entry;
    for (let i = 0; i < numPromptRows(entry); i++) input.logitsIndices[row++] = token + i;
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
