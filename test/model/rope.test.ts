// Rope scalings against numbers computed elsewhere from the published formulas.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type ModelConfigOptions, readModelConfig } from '../../src/model/model-config.js';
import { longropeMscale, yarnMscale } from '../../src/model/rope.js';
import { llamaConfig, withFolder } from './model-folders.js';

const read = (config: object, options?: ModelConfigOptions) =>
  withFolder({ 'config.json': { ...llamaConfig, ...config } }, (folder) => readModelConfig(folder, options));

/** To float32's precision. */
function assertNear(received: ArrayLike<number>, expected: Readonly<Record<number, number>>): void {
  for (const [i, value] of Object.entries(expected)) {
    const relativeError = Math.abs(received[Number(i)]! / value - 1);
    assert.ok(relativeError < 1e-6, `frequency ${i}: expected ${value} but received ${received[Number(i)]}`);
  }
}

test('yarn keeps fast dimensions, divides slow ones and blends between (arXiv:2309.00071, 3.2)', async () => {
  // Qwen2.5 beyond 32k: dimensions 23 and 40 turn 32 times and once in 32,768 tokens.
  const config = await read({
    head_dim: 128,
    rope_theta: 1e6,
    max_position_embeddings: 32_768,
    rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 32_768 },
  });
  assertNear(config.invFreq, {
    0: 1,
    23: 0.006978305848598663,
    24: 0.005375321490790102,
    31: 0.0008029597275452302,
    39: 6.490394320837029e-5,
    40: 4.445698525097307e-5,
    63: 3.102344401879299e-7,
  });
  assertNear([config.ropeAttentionScaling], { 0: 1.138629436111989 });
  assert.is(config.maxPositionEmbeddings, 131_072);
});

test('yarn takes its attention factor from the config, or from mscale and mscale_all_dim', async () => {
  const scaling = async (fields: object) =>
    (await read({ rope_scaling: { rope_type: 'yarn', factor: 40, ...fields } })).ropeAttentionScaling;
  // 0.1 ln 40 + 1 (section 3.4), and the same with ln weighted by 0.7.
  assertNear([await scaling({})], { 0: 1.3688879454113936 });
  assertNear([await scaling({ mscale: 0.7, mscale_all_dim: 1 })], {
    0: (0.1 * 0.7 * Math.log(40) + 1) / 1.3688879454113936,
  });
  assert.is(await scaling({ mscale: 1, mscale_all_dim: 1 }), 1);
  assert.is(await scaling({ attention_factor: 1.5 }), 1.5);
  assert.is(yarnMscale(1), 1);
});

test('dynamic NTK stretches theta once, for the longest sequence', async () => {
  // theta · (2 · 2 − 1)^(128/126)
  const config = await read({ head_dim: 128, rope_scaling: { type: 'dynamic', factor: 2 } });
  assertNear(config.invFreq, {
    0: 1,
    1: 0.8509942913412162,
    32: 0.005723381508381238,
    63: 3.849273282298194e-5,
  });
  assert.is(config.maxPositionEmbeddings, 128);
  assert.is(config.ropeAttentionScaling, 1);
});

test('longrope divides by its long factors, or by its short ones on a node that takes no longer sequences', async () => {
  const shortFactors = Array.from({ length: 48 }, (_, i) => 1 + i / 48);
  const longFactors = Array.from({ length: 48 }, (_, i) => 1 + i);
  const phi3 = {
    model_type: 'phi3',
    head_dim: 96,
    max_position_embeddings: 131_072,
    original_max_position_embeddings: 4096,
    rope_scaling: { type: 'su', short_factor: shortFactors, long_factor: longFactors },
  };
  const base = { 0: 1, 1: 0.8254041852680184, 47: 0.00012115276586285888 };
  const long = await read(phi3);
  assertNear(long.invFreq, { 0: base[0], 1: base[1] / 2, 47: base[47] / 48 });
  // √(1 + ln 32 / ln 4096), arXiv:2402.13753.
  assertNear([long.ropeAttentionScaling], { 0: 1.1902380714238083 });
  assert.is(long.maxPositionEmbeddings, 131_072);
  const short = await read(phi3, { maxModelLen: 4096 });
  assertNear(short.invFreq, { 0: base[0], 1: base[1] / (1 + 1 / 48), 47: base[47] / (1 + 47 / 48) });
  assertNear([short.ropeAttentionScaling], { 0: 1.1902380714238083 });
  assert.equal((await read(phi3, { maxModelLen: 4097 })).invFreq, long.invFreq);
  assert.is(longropeMscale(1, 4096), 1);
});

test('longrope takes its own factors on cosines before the formula', async () => {
  const rope_scaling = {
    rope_type: 'longrope',
    short_factor: [1, 1],
    long_factor: [2, 2],
    short_mscale: 1.1,
    long_mscale: 1.3,
    original_max_position_embeddings: 32,
  };
  assert.is((await read({ rope_scaling })).ropeAttentionScaling, 1.3);
  assert.is((await read({ rope_scaling }, { maxModelLen: 32 })).ropeAttentionScaling, 1.1);
});

test('a linear scaling lengthens the context by its factor', async () => {
  const config = await read({ rope_scaling: { rope_type: 'linear', factor: 4 } });
  assert.equal([...config.invFreq], [0.25, Math.fround(0.0025)]);
  assert.is(config.maxPositionEmbeddings, 256);
});

test('every scaling means the same in rope_parameters as in rope_theta and rope_scaling', async () => {
  for (const scaling of [
    { rope_type: 'linear', factor: 4 },
    { rope_type: 'dynamic', factor: 4 },
    { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 16 },
    {
      rope_type: 'longrope',
      short_factor: [1, 1],
      long_factor: [1, 2],
      original_max_position_embeddings: 16,
    },
  ]) {
    const old = await read({ rope_theta: 5000, rope_scaling: scaling });
    const recent = await read({ rope_parameters: { ...scaling, rope_theta: 5000 } });
    assert.equal(recent.rope, old.rope);
    assert.equal(recent.invFreq, old.invFreq);
  }
});

test.run();
