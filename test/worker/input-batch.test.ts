// A step of several requests as one batch without padding.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ScheduledRequest } from '../../src/outputs.js';
import { defaultSamplingParams, Request, type SamplingParams } from '../../src/request.js';
import type { PrefillStats } from '../../src/wire.js';
import { numPromptRows, toForwardInput } from '../../src/worker/input-batch.js';

interface Share {
  readonly tokenIds: readonly number[];
  readonly computed: number;
  readonly scheduled: number;
  readonly blockIds: readonly number[];
}

function scheduledRequest(
  { tokenIds, computed, scheduled, blockIds }: Share,
  params: Partial<SamplingParams> = {},
): ScheduledRequest {
  const requestId = `r${tokenIds[0]}`;
  const request = new Request(
    { requestId, promptTokenIds: tokenIds, samplingParams: { ...defaultSamplingParams, ...params } },
    0,
  );
  return {
    request,
    numComputedTokens: computed,
    numScheduledTokens: scheduled,
    blockIds,
    samples: computed + scheduled === tokenIds.length,
  };
}

test('a first chunk, a last chunk and a decode lie one after the other without padding', () => {
  const scheduled = [
    scheduledRequest({ tokenIds: [10, 11, 12, 13, 14, 15], computed: 0, scheduled: 4, blockIds: [7] }),
    scheduledRequest({ tokenIds: [20, 21, 22, 23, 24, 25], computed: 4, scheduled: 2, blockIds: [3, 9] }),
    scheduledRequest({ tokenIds: [30, 31, 32], computed: 2, scheduled: 1, blockIds: [5] }),
  ];
  const input = toForwardInput(scheduled);
  assert.equal([...input.tokenIds], [10, 11, 12, 13, 24, 25, 32]);
  assert.equal([...input.positions], [0, 1, 2, 3, 4, 5, 2]);
  assert.equal([...input.cuSeqlensQ], [0, 4, 6, 7]);
  assert.equal([...input.blockTables], [7, 3, 9, 5]);
  assert.equal([...input.cuBlocks], [0, 1, 3, 4]);
  assert.equal([...input.logitsIndices], [5, 6], 'the unfinished prompt asks for no logits');
});

test('where a prompt is scored, all its tokens but the last one ask for logits', () => {
  const scored = (share: Share) => scheduledRequest(share, { promptLogprobs: 0 });
  const scheduled = [
    scored({ tokenIds: [1, 2, 3, 4], computed: 0, scheduled: 2, blockIds: [1] }),
    scheduledRequest({ tokenIds: [5, 6], computed: 0, scheduled: 2, blockIds: [2] }),
    scored({ tokenIds: [7, 8, 9], computed: 0, scheduled: 3, blockIds: [3] }),
    scored({ tokenIds: [10], computed: 0, scheduled: 1, blockIds: [4] }),
  ];
  assert.equal(scheduled.map(numPromptRows), [2, 0, 2, 0]);
  assert.equal([...toForwardInput(scheduled).logitsIndices], [0, 1, 3, 4, 5, 6, 7]);
  scheduled[2]!.request.prefillStats = {} as PrefillStats;
  assert.is(numPromptRows(scheduled[2]!), 0, 'it is known already, and computed again after a preemption');
});

test('an empty step is an empty batch', () => {
  const input = toForwardInput([]);
  assert.equal([...input.cuSeqlensQ], [0]);
  assert.equal([...input.cuBlocks], [0]);
  assert.is(input.tokenIds.length, 0);
});

test.run();
