// Log probabilities of a prompt on a real model: the bits that its tokens would have been generated with.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { RequestOutput } from '../../src/engine/request-output.js';
import { useEmulatedDevice } from '../native/emulated-device.js';
import { assertWhole, generate, prompt, withEngine } from './test-engine.js';

const ids = prompt(70);
const numAnswerTokens = 40;

type Scores = NonNullable<RequestOutput['promptLogprobs']>;

test("a prompt's tokens are scored as they were when they were generated, in whatever chunks they run", async () => {
  let generated: Scores = [];
  let whole: readonly number[] = [];
  await withEngine({}, async (engine) => {
    const answer = await generate(engine, ids, { maxTokens: numAnswerTokens, logprobs: 5 });
    generated = answer.pieces.flatMap((piece) => piece.logprobs);
    whole = [...ids, ...answer.tokenIds];
  });
  const all: Scores[] = [];
  for (const maxNumBatchedTokens of [512, 33, 16]) {
    await withEngine({ scheduler: { maxNumBatchedTokens } }, async (engine) => {
      for (let again = 0; again < 2; again++) {
        // Others run beside it, and the second time all of it is cached.
        const others = [1, 2].map((label) => generate(engine, prompt(30, label), { maxTokens: 8 }));
        const { pieces } = await generate(engine, whole, { maxTokens: 3, promptLogprobs: 5 });
        await Promise.all(others);
        assert.ok(pieces.slice(1).every((piece) => piece.promptLogprobs === null));
        all.push(pieces[0]!.promptLogprobs!);
        assert.is(pieces[0]!.prefillStats!.num_computed_tokens, whole.length);
      }
    });
  }
  for (const scores of all) {
    assert.equal(
      scores.map(({ tokenId }) => tokenId),
      whole.slice(1),
    );
    assert.equal(scores, all[0]);
    assert.equal(scores.slice(ids.length - 1), generated);
  }
});

const backends = ['onnx', ...(useEmulatedDevice() ? ['cuda' as const] : [])] as const;

for (const backend of backends) {
  test(`${backend} scores them as it generates them, beside requests that sample on the device`, async () => {
    const options = { backend, scheduler: { maxNumBatchedTokens: 16 } };
    await withEngine(options, async (engine) => {
      const short = ids.slice(0, 10);
      const answer = await generate(engine, short, { maxTokens: 8, logprobs: 2 });
      const plain = await generate(engine, prompt(12), { maxTokens: 6 });
      const [beside, { pieces }] = await Promise.all([
        generate(engine, prompt(12), { maxTokens: 6 }),
        generate(engine, [...short, ...answer.tokenIds], { maxTokens: 2, promptLogprobs: 2 }),
      ]);
      assert.equal(beside.tokenIds, plain.tokenIds);
      assert.equal(
        pieces[0]!.promptLogprobs!.slice(short.length - 1),
        answer.pieces.flatMap((piece) => piece.logprobs),
      );
    });
  });
}

test('greedy sampling takes what has rank 1, and the answer is the same as without scores', async () => {
  await withEngine({}, async (engine) => {
    const plain = await generate(engine, ids);
    const { pieces, tokenIds } = await generate(engine, ids, { promptLogprobs: 0, logprobs: 1 });
    assert.equal(tokenIds, plain.tokenIds);
    assert.ok(pieces.every((piece) => piece.logprobs[0]!.rank === 1));
    assert.is(pieces[0]!.promptLogprobs!.length, ids.length - 1);
    assert.ok(
      pieces[0]!.promptLogprobs!.every(
        ({ top, rank, logprob }) => top.length === 0 && rank > 0 && logprob < 0,
      ),
    );
  });
});

test('requests with scores, in a pool too small for all of them, are preempted and still complete', async () => {
  await withEngine({ cache: { numBlocks: 24 }, scheduler: { maxNumBatchedTokens: 40 } }, async (engine) => {
    const alone: Scores[] = [];
    for (const label of [1, 2, 3]) {
      const { pieces } = await generate(engine, prompt(90, label), { maxTokens: 1, promptLogprobs: 2 });
      alone.push(pieces[0]!.promptLogprobs!);
    }
    const crowd = await Promise.all(
      [1, 2, 3].map((label) => generate(engine, prompt(90, label), { maxTokens: 80, promptLogprobs: 2 })),
    );
    for (const [i, { pieces }] of crowd.entries()) {
      assert.equal(
        pieces.map((piece) => piece.promptLogprobs).filter((scores) => scores !== null),
        [alone[i]],
      );
    }
    await assertWhole(engine);
  });
});

test.run();
