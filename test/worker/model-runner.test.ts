// One step carried out: in which order the model and the loads are started.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KVConnectorWorker } from '../../src/kv-transfer/connector.js';
import type { Model } from '../../src/model/model.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import { defaultSamplingParams, Request } from '../../src/request.js';
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

test.run();
