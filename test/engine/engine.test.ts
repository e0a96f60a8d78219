// An engine by itself: the same text however it is batched, chunked, preempted or cached.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Engine } from '../../src/engine/engine.js';
import type { FinishedRequestStats, StatLogger } from '../../src/engine/stats.js';
import { VllmPdError } from '../../src/errors.js';
import { assertWhole, generate, prompt, sampling, sleep, startEngine, withEngine } from './test-engine.js';

const words = 'once upon a time there was a king who had three sons';

async function rejection(work: () => Promise<unknown> | unknown): Promise<VllmPdError> {
  try {
    await work();
  } catch (error) {
    assert.instance(error, VllmPdError);
    return error as VllmPdError;
  }
  throw new Error('Expected a VllmPdError');
}

test('greedy text is the same alone, again from the cache, and in a batch', async () => {
  await withEngine({}, async (engine) => {
    const ids = engine.tokenizer.encode(words);
    const first = await generate(engine, ids);
    assert.is(first.tokenIds.length, 32);
    assert.is(first.text, engine.tokenizer.decode(first.tokenIds));
    const others = [1, 2, 3].map((label) => generate(engine, prompt(50 * label, label)));
    const again = await generate(engine, ids);
    assert.is(again.text, first.text);
    assert.ok(again.last.prefillStats!.ledger.local_hit > 0);
    await Promise.all(others);
  });
});

test('chunked prefill changes nothing', async () => {
  const answers: string[] = [];
  for (const maxNumBatchedTokens of [512, 33, 16]) {
    await withEngine({ scheduler: { maxNumBatchedTokens } }, async (engine) => {
      answers.push((await generate(engine, prompt(200))).text);
    });
  }
  assert.is(new Set(answers).size, 1);
});

test('preemption under a small pool changes nothing', async () => {
  const prompts = [1, 2, 3, 4].map((label) => prompt(60, label));
  const run = async (engine: Engine) => {
    const done = await Promise.all(prompts.map((ids) => generate(engine, ids, { maxTokens: 100 })));
    return done.map(({ text }) => text);
  };
  let numPreemptions = 0;
  const counter: StatLogger = {
    recordStep: (stats) => {
      numPreemptions += stats.numPreemptions;
    },
    recordInterTokenLatency: () => {},
    recordTimeToFirstToken: () => {},
    recordFinished: () => {},
    recordTransfer: () => {},
  };
  let roomy: string[] = [];
  await withEngine({}, async (engine) => {
    roomy = await run(engine);
  });
  await withEngine({ cache: { numBlocks: 24 } }, async (engine) => {
    engine.addStatLogger(counter);
    assert.equal(await run(engine), roomy);
  });
  assert.ok(numPreemptions > 0, 'the pool was small enough');
});

test('seeded sampling gives the same text again, whatever else runs', async () => {
  await withEngine({ cache: { numBlocks: 40 } }, async (engine) => {
    const params = { temperature: 1, seed: 11, maxTokens: 60 };
    const alone = await generate(engine, prompt(40), params);
    const [crowded] = await Promise.all([
      generate(engine, prompt(40), params),
      ...[2, 3, 4, 5].map((label) => generate(engine, prompt(100, label), { maxTokens: 60 })),
    ]);
    assert.is(crowded!.text, alone.text);
    const other = await generate(engine, prompt(40), { ...params, seed: 12 });
    assert.is.not(other.text, alone.text);
  });
});

test('leaving a generation frees its blocks', async () => {
  await withEngine({}, async (engine) => {
    for await (const piece of engine.generate({ promptTokenIds: prompt(50), samplingParams: sampling() })) {
      assert.is(piece.finishReason, null);
      break;
    }
    await assertWhole(engine);
    // Never iterated, and left while the prompt is in the queue.
    await engine.generate({ promptTokenIds: prompt(50), samplingParams: sampling() }).return();
  });
});

test('a stop string ends the text before it, also when it is spread over tokens', async () => {
  await withEngine({}, async (engine) => {
    const ids = engine.tokenizer.encode(words);
    const { text } = await generate(engine, ids);
    const stop = text.slice(30, 37);
    const at = text.indexOf(stop);
    const cut = await generate(engine, ids, { stop: ['never said', stop] });
    assert.is(cut.text, text.slice(0, at));
    assert.is(cut.last.finishReason, 'stop');
    assert.is(cut.last.stopReason, stop);
    const kept = await generate(engine, ids, { stop: [stop], includeStopStrInOutput: true });
    assert.is(kept.text, text.slice(0, at + stop.length));
  });
});

test('stop strings do not count before min_tokens', async () => {
  await withEngine({}, async (engine) => {
    const { text, tokenIds } = await generate(engine, prompt(20));
    const stop = text.trim().split(' ')[0]!;
    const { tokenIds: longer } = await generate(engine, prompt(20), { stop: [stop], minTokens: 5 });
    assert.equal(longer.slice(0, 5), tokenIds.slice(0, 5));
  });
});

test('a stop token id ends the answer and is no part of its text', async () => {
  await withEngine({}, async (engine) => {
    const { tokenIds } = await generate(engine, prompt(20));
    const stopToken = tokenIds[10]!;
    const stopped = await generate(engine, prompt(20), { stopTokenIds: [stopToken] });
    const end = tokenIds.indexOf(stopToken);
    assert.equal(stopped.tokenIds, tokenIds.slice(0, end + 1));
    assert.is(stopped.text, engine.tokenizer.decode(tokenIds.slice(0, end)));
    assert.is(stopped.last.finishReason, 'stop');
    assert.is(stopped.last.stopReason, stopToken);
  });
});

test('logprobs name the tokens, best first', async () => {
  await withEngine({}, async (engine) => {
    const { tokenIds, pieces } = await generate(engine, prompt(20), { logprobs: 3, maxTokens: 4 });
    const logprobs = pieces.flatMap((piece) => piece.logprobs);
    assert.equal(
      logprobs.map((entry) => entry.tokenId),
      tokenIds,
    );
    for (const entry of logprobs) {
      assert.is(entry.rank, 1);
      assert.is(entry.top.length, 3);
      assert.is(entry.top[0]!.tokenId, entry.tokenId);
      assert.is(entry.token, engine.tokenizer.decode([entry.tokenId]));
      assert.ok(entry.logprob < 0 && entry.top[1]!.logprob <= entry.logprob);
    }
  });
});

test('a cache query sees what is cached and leaves no trace; a lease holds it until released', async () => {
  await withEngine({}, async (engine) => {
    const ids = prompt(50);
    assert.is((await engine.cacheQuery(ids)).num_tokens, 0);
    await generate(engine, ids);
    const before = engine.prefixCacheStats();
    const plain = await engine.cacheQuery(ids);
    assert.is(plain.num_tokens, 48);
    assert.is(plain.lease, null);
    assert.is(plain.kv_transfer_params, null);
    assert.equal(engine.prefixCacheStats(), before);
    await assertWhole(engine);

    const leased = await engine.cacheQuery(ids, { lease: true });
    assert.is(leased.num_blocks, 3);
    assert.is(engine.state().numHolds, 1);
    assert.is(engine.state().numFreeBlocks, 127 - 3);
    assert.is(engine.resetPrefixCache(), false);
    assert.is(engine.resetPrefixCache({ onlyFree: true }), true);
    assert.is((await engine.cacheQuery(ids)).num_tokens, 48, 'leased blocks stay');
    assert.is(engine.releaseLease(leased.lease!.id), true);
    assert.is(engine.releaseLease(leased.lease!.id), false);
    await assertWhole(engine);
    assert.is(engine.resetPrefixCache(), true);
    assert.is((await engine.cacheQuery(ids)).num_tokens, 0);
  });
});

test('a lease that nobody uses expires by itself', async () => {
  await withEngine({ kvTransfer: { kvLeaseDurationMs: 40 } }, async (engine) => {
    await generate(engine, prompt(50));
    const { lease } = await engine.cacheQuery(prompt(50), { lease: true });
    assert.is(lease!.expires_in_ms, 40);
    await sleep(80);
    assert.is(engine.state().numHolds, 0);
    assert.is(engine.releaseLease(lease!.id), false);
    assert.is(engine.kvTransferStats().numExpiredHolds, 1);
  });
});

test('a cache salt keeps prompts apart', async () => {
  await withEngine({}, async (engine) => {
    const ids = prompt(50);
    await generate(engine, ids, {}, { cacheSalt: 'a' });
    assert.is((await engine.cacheQuery(ids)).num_tokens, 0);
    assert.is((await engine.cacheQuery(ids, { cacheSalt: 'a' })).num_tokens, 48);
  });
});

const refusals: readonly {
  name: string;
  ids: readonly number[];
  params?: Parameters<typeof sampling>[0];
  code: string;
  says: RegExp;
}[] = [
  { name: 'an empty prompt', ids: [], code: 'INVALID_ARGUMENT', says: /at least one token/ },
  {
    name: 'a prompt over max_model_len',
    ids: prompt(100),
    code: 'PROMPT_TOO_LONG',
    says: /64 tokens.*100 tokens/,
  },
  {
    name: 'a prompt of max_model_len',
    ids: prompt(64),
    code: 'PROMPT_TOO_LONG',
    says: /64 tokens.*64 tokens/,
  },
  {
    name: 'a token beyond the vocabulary',
    ids: [1, 1e6],
    code: 'INVALID_ARGUMENT',
    says: /received 1000000/,
  },
  { name: 'a negative token', ids: [-1], code: 'INVALID_ARGUMENT', says: /received -1/ },
  { name: 'a fraction of a token', ids: [1.5], code: 'INVALID_ARGUMENT', says: /received 1.5/ },
  {
    name: 'too many tokens to generate',
    ids: prompt(40),
    params: { maxTokens: 25 },
    code: 'INVALID_ARGUMENT',
    says: /25 > 64 - 40/,
  },
  {
    name: 'min_tokens over max_tokens',
    ids: [1],
    params: { maxTokens: 2, minTokens: 3 },
    code: 'INVALID_ARGUMENT',
    says: /min_tokens/,
  },
  {
    name: 'a bias for no token',
    ids: [1],
    params: { logitBias: new Map([[1e6, 1]]) },
    code: 'INVALID_ARGUMENT',
    says: /logit_bias/,
  },
];

test('what cannot run is refused at once, with the numbers', async () => {
  await withEngine({ scheduler: { maxModelLen: 64 } }, async (engine) => {
    for (const { name, ids, params, code, says } of refusals) {
      const error = await rejection(() =>
        engine.generate({ promptTokenIds: ids, samplingParams: sampling(params) }),
      );
      assert.is(error.code, code, name);
      assert.match(error.message, says, name);
    }
    const query = await rejection(() => engine.cacheQuery(prompt(100)));
    assert.is(query.code, 'PROMPT_TOO_LONG');
    const fits = await generate(engine, prompt(63), { maxTokens: 1 });
    assert.is(fits.tokenIds.length, 1);
  });
});

test('a prompt larger than the pool is refused with the size of the pool', async () => {
  await withEngine({ cache: { numBlocks: 5 } }, async (engine) => {
    const error = await rejection(() => engine.generate({ promptTokenIds: prompt(80) }));
    assert.is(error.code, 'PROMPT_TOO_LONG');
    assert.match(error.message, /holds 64 tokens.*80 tokens/);
    const whole = await generate(engine, prompt(40), { maxTokens: 24 });
    assert.is(whole.tokenIds.length, 24);
  });
});

test('a request id is taken only once', async () => {
  await withEngine({}, async (engine) => {
    const input = { requestId: 'same', promptTokenIds: prompt(10), samplingParams: sampling() };
    const first = engine.generate(input);
    const error = await rejection(() => engine.generate(input));
    assert.match(error.message, 'same');
    await first.return();
    await generate(engine, prompt(10), {}, { requestId: 'same' });
  });
});

test('stat loggers hear of steps, tokens and ends', async () => {
  await withEngine({}, async (engine) => {
    const finished: FinishedRequestStats[] = [];
    let numGaps = 0;
    let numFirst = 0;
    let numScheduled = 0;
    engine.addStatLogger({
      recordStep: (stats) => {
        numScheduled += stats.numScheduledTokens;
      },
      recordInterTokenLatency: () => numGaps++,
      recordTimeToFirstToken: () => numFirst++,
      recordFinished: (stats) => finished.push(stats),
      recordTransfer: () => assert.unreachable(),
    });
    await generate(engine, prompt(20), { maxTokens: 5 });
    assert.equal([numFirst, numGaps, numScheduled], [1, 4, 24]);
    const [stats] = finished;
    assert.is(stats!.finished, 'FINISHED_LENGTH_CAPPED');
    assert.is(stats!.numGenerationTokens, 5);
    assert.is(stats!.prefillStats!.num_computed_tokens, 20);
    assert.ok(stats!.queuedMs! >= 0 && stats!.prefillMs! > 0 && stats!.decodeMs! > 0);
    assert.ok(stats!.e2eMs >= stats!.timeToFirstTokenMs!);
  });
});

test('draining lets requests end; a shutdown aborts them; both refuse new ones', async () => {
  const engine = await startEngine();
  const running = generate(engine, prompt(30), { maxTokens: 20 });
  await engine.drain();
  assert.is((await running).tokenIds.length, 20);
  assert.is((await rejection(() => engine.generate({ promptTokenIds: prompt(5) }))).code, 'OVERLOADED');
  await engine.shutdown();

  const second = await startEngine();
  const long = generate(second, prompt(30), { maxTokens: 1000 });
  await sleep(20);
  await second.shutdown();
  await second.shutdown();
  assert.is((await long).last.finishReason, 'abort');
});

test.run();
