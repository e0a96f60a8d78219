// Engine options survive the trip to a node process and back.
import { Parser } from '@oclif/core';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import Serve from '../../commands/serve.js';
import { engineOptions } from '../../src/cli/engine-flags.js';
import type { EngineOptions } from '../../src/engine-options.js';
import { defaultKvEvents } from '../../src/engine-options.js';
import { engineArgs, engineEnv } from '../../src/server/cluster-args.js';

async function roundTrip(options: EngineOptions): Promise<EngineOptions> {
  const env = engineEnv(options);
  Object.assign(process.env, env);
  try {
    const { flags } = await Parser.parse(engineArgs(options), { flags: Serve.flags });
    return engineOptions(flags);
  } finally {
    for (const name of Object.keys(env)) delete process.env[name];
  }
}

const nothing = { cache: {}, scheduler: {}, kvTransfer: {} };

test('no choice stays no choice', async () => {
  assert.equal(engineArgs({}), []);
  assert.equal(await roundTrip({}), nothing);
});

test('every choice arrives as it was made', async () => {
  const options: EngineOptions = {
    model: '-odd folder/with = signs',
    servedModelName: 'name',
    backend: 'onnx',
    onnxFile: 'q4',
    chatTemplate: "{{ messages[0]['content'] }}\n",
    generationConfig: 'vllm',
    overrideGenerationConfig: { temperature: 0.5, top_k: 3 },
    dtype: 'bfloat16',
    quantization: 'int8',
    numThreads: 3,
    seed: 0,
    kvEvents: {
      ...defaultKvEvents,
      endpoint: 'tcp://*:1234',
      topic: 'a "topic"',
      buffer_steps: 7,
      bind: true,
    },
    cache: { blockSize: 32, numBlocks: 77, enablePrefixCaching: false, hashSeed: '-1' },
    scheduler: { maxNumSeqs: 5, maxNumBatchedTokens: 64, maxModelLen: 999 },
    kvTransfer: {
      mode: 'uni',
      lookup: 'ticket',
      firstToken: 'decode',
      kvRecomputeThreshold: 0,
      kvLeaseDurationMs: 150,
      decoderKvBlocksTtlMs: 1_000,
      kvReadTimeoutMs: 2_500,
      kvPeerTimeoutMs: 1_500,
      agent: 'tcp',
      kvLoadFailurePolicy: 'fail',
    },
    kvStore: {
      memoryBytes: 1000,
      directory: '/some folder',
      shared: 'redis://127.0.0.1:6379',
      hopPlanner: false,
      dedicatedTier: { capacityBytes: 2 ** 40, ttlMs: 1500, policy: 'session' },
      sharedTier: { capacityBytes: 5, ttlMs: 60_000, policy: 'lfu' },
    },
  };
  assert.equal(await roundTrip(options), options);
  const auto = { kvTransfer: { kvRecomputeThreshold: 'auto' } } as const;
  assert.equal(await roundTrip(auto), { ...nothing, ...auto });
  assert.equal(await roundTrip({ cache: { enablePrefixCaching: true } }), {
    ...nothing,
    cache: { enablePrefixCaching: true },
  });
});

test('secrets travel in the environment, and hide those of the process that starts a node', () => {
  const options: EngineOptions = {
    kvTransfer: { key: 'a secret of the nodes' },
    kvStore: { shared: 'redis://:password@127.0.0.1:6379' },
  };
  assert.not.match(engineArgs(options).join(' '), /secret|password/);
  assert.equal(engineEnv(options), {
    VLLM_PD_KV_TRANSFER_KEY: 'a secret of the nodes',
    VLLM_PD_KV_SHARED_STORE: 'redis://:password@127.0.0.1:6379',
  });
  assert.equal(engineEnv({}), { VLLM_PD_KV_TRANSFER_KEY: '', VLLM_PD_KV_SHARED_STORE: '' });
});

test.run();
