// One step carried out: in which order the model and the loads are started.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KVConnectorWorker } from '../../src/kv-transfer/connector.js';
import type { Model } from '../../src/model/model.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import { defaultSamplingParams, Request, type SamplingParams } from '../../src/request.js';
import { ModelRunner } from '../../src/worker/model-runner.js';
import { Sampler } from '../../src/worker/sampler.js';

// Fails when loads are started first: to tell a peer takes as long as its process is woken for, and the model waits.
test('the model runs before loads are started and peers are told', async () => {
  const order: string[] = [];
  const model = {
    vocabSize: 4,
    forward: async () => {
      order.push('forward');
      return Float32Array.of(0, 0, 1, 0);
    },
  } as unknown as Model;
  const connector = {
    startLoadKv: () => order.push('loads'),
    getFinished: () => null,
  } as unknown as KVConnectorWorker;
  const sampler = new Sampler({ suppressTokenIds: [], seed: 0 });
  const runner = new ModelRunner({ model, pool: {} as KvPool, sampler, connector });
  const samplingParams = { ...defaultSamplingParams, temperature: 0 };
  const request = new Request({ requestId: 'a', promptTokenIds: [1, 2], samplingParams }, 0);
  const scheduled = [{ request, numComputedTokens: 0, numScheduledTokens: 2, blockIds: [1], samples: true }];
  const kvConnectorMetadata = { pulls: [] };
  const plan = { scheduled, totalNumScheduledTokens: 2, cacheQueryAnswers: [], kvConnectorMetadata };
  const { sampledTokenIds } = await runner.execute(plan);
  assert.equal([...sampledTokenIds], [['a', 2]]);
  assert.equal(order, ['forward', 'loads']);
  await runner.execute({ ...plan, scheduled: [], totalNumScheduledTokens: 0 });
  assert.equal(order, ['forward', 'loads', 'loads'], 'where nothing runs, loads are started all the same');
});

const params: SamplingParams = { ...defaultSamplingParams, temperature: 0, promptLogprobs: 1 };

function createRequest(requestId: string, promptTokenIds: readonly number[], samplingParams = params) {
  return new Request({ requestId, promptTokenIds, samplingParams }, 0);
}

test('rows of a prompt are read one by one, and the model draws what it can beside them', async () => {
  const scored = { request: createRequest('a', [3, 0, 2]), numComputedTokens: 0, numScheduledTokens: 3 };
  const drawn = {
    request: createRequest('b', [1], { ...params, promptLogprobs: null }),
    numComputedTokens: 0,
    numScheduledTokens: 1,
  };
  const scheduled = [drawn, scored].map((share) => ({ ...share, blockIds: [1], samples: true }));
  const wants: boolean[] = [];
  const model = {
    vocabSize: 4,
    forwardAndSample: async (_pool: KvPool, _input: object, draws: readonly (object | null)[]) => {
      wants.push(...draws.map((draw) => draw === null));
      // Of b and of a's last token there is a draw.
      return { tokenIds: [1, null, null, 3], logits: Float32Array.of(1, 0, 0, 0, 0, 5, 3, 0) };
    },
  } as unknown as Model;
  const sampler = new Sampler({ suppressTokenIds: [1], seed: 0 });
  const runner = new ModelRunner({ model, pool: {} as KvPool, sampler, connector: null });
  const plan = { scheduled, totalNumScheduledTokens: 4, cacheQueryAnswers: [], kvConnectorMetadata: null };
  const { sampledTokenIds, promptLogprobs } = await runner.execute(plan);
  assert.equal(wants, [false, true, true, false]);
  assert.equal(
    [...sampledTokenIds],
    [
      ['b', 1],
      ['a', 3],
    ],
  );
  assert.equal([...promptLogprobs.keys()], ['a']);
  const entries = promptLogprobs.get('a')!;
  // Token 1 is never said, so that it does not count.
  assert.equal(
    entries.map(({ tokenId, rank, top }) => [tokenId, rank, top[0]!.tokenId]),
    [
      [0, 1, 0],
      [2, 1, 2],
    ],
  );
  assert.ok(Math.abs(entries[0]!.logprob - Math.log(Math.E / (Math.E + 2))) < 1e-6);
});

// Fails when rows are gone through in one go: a chunk of a prompt has hundreds of them.
test('the event loop goes on while a prompt is read', async () => {
  const vocabSize = 50_000;
  const model = {
    vocabSize,
    forward: async (_pool: KvPool, { logitsIndices }: { readonly logitsIndices: Int32Array }) =>
      new Float32Array(logitsIndices.length * vocabSize),
  } as unknown as Model;
  const sampler = new Sampler({ suppressTokenIds: [], seed: 0 });
  const runner = new ModelRunner({ model, pool: {} as KvPool, sampler, connector: null });
  const request = createRequest('a', new Array(200).fill(7));
  const scheduled = [
    { request, numComputedTokens: 0, numScheduledTokens: 200, blockIds: [1], samples: true },
  ];
  let numTurns = 0;
  const turns = setInterval(() => {
    numTurns += 1;
  }, 1);
  const plan = { scheduled, totalNumScheduledTokens: 200, cacheQueryAnswers: [], kvConnectorMetadata: null };
  const { promptLogprobs } = await runner.execute(plan);
  clearInterval(turns);
  assert.is(promptLogprobs.get('a')!.length, 199);
  assert.ok(numTurns > 5, `the event loop had ${numTurns} turns`);
});

test.run();
