// Weights against config.json: one file or shards, and tensors that are missing or do not fit.
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readCheckpoint } from '../../src/model/checkpoint.js';
import { readModelConfig } from '../../src/model/model-config.js';
import { expectedTensors } from '../../src/model/model-tensors.js';
import { type TensorSource, tensorBytes, writeSafetensors } from '../../src/model/safetensors-writer.js';
import { storedTensors } from '../../src/model/stored-tensors.js';
import { errorOf, type Files, llamaConfig, withFolder } from './model-folders.js';

interface Shard {
  readonly name: string;
  readonly tensors: readonly TensorSource[];
}

const source = (name: string, shape: readonly number[], dtype = 'BF16'): TensorSource => ({
  name,
  shape,
  dtype,
  chunks: () => [new Uint8Array(tensorBytes({ shape, dtype }))],
});

async function tensorsOf(config: object): Promise<TensorSource[]> {
  const parsed = await withFolder({ 'config.json': config }, (folder) => readModelConfig(folder));
  return expectedTensors(parsed).map(({ name, shape }) => source(name, shape));
}

function read(shards: readonly Shard[], files: Files = {}, config: object = llamaConfig) {
  return withFolder({ 'config.json': config, ...files }, async (folder) => {
    for (const { name, tensors } of shards) await writeSafetensors(path.join(folder, name), tensors);
    return readCheckpoint(folder, await readModelConfig(folder));
  });
}

const single = (tensors: readonly TensorSource[]): Shard[] => [{ name: 'model.safetensors', tensors }];

test('a single file gives every tensor that the decoder needs, and no other', async () => {
  const tensors = await tensorsOf(llamaConfig);
  const extra = source('model.layers.0.self_attn.rotary_emb.inv_freq', [2], 'F32');
  const found = await read(single([extra, ...tensors].reverse()));
  assert.equal(
    found.map(({ name }) => name),
    tensors.map(({ name }) => name),
  );
});

test('tied embeddings need no lm_head, biases and norms follow the family', async () => {
  const names = async (config: object) => (await tensorsOf(config)).map(({ name }) => name);
  assert.ok((await names(llamaConfig)).includes('lm_head.weight'));
  const qwen2 = await names({ ...llamaConfig, model_type: 'qwen2', tie_word_embeddings: true });
  assert.not.ok(qwen2.includes('lm_head.weight'));
  assert.ok(qwen2.includes('model.layers.0.self_attn.k_proj.bias'));
  const qwen3 = await names({ ...llamaConfig, model_type: 'qwen3' });
  assert.ok(qwen3.includes('model.layers.0.self_attn.q_norm.weight'));
});

test('shards are found through the index', async () => {
  const tensors = await tensorsOf(llamaConfig);
  const shards = [
    { name: 'a.safetensors', tensors: tensors.slice(0, 4) },
    { name: 'b.safetensors', tensors: tensors.slice(4) },
  ];
  const weightMap = Object.fromEntries(
    shards.flatMap((shard) => shard.tensors.map(({ name }) => [name, shard.name])),
  );
  const found = await read(shards, { 'model.safetensors.index.json': { weight_map: weightMap } });
  assert.equal(
    found.map(({ path: file }) => path.basename(file)),
    tensors.map((_, i) => (i < 4 ? 'a.safetensors' : 'b.safetensors')),
  );

  const wrong = { ...weightMap, [tensors[0]!.name]: 'b.safetensors' };
  const index = { 'model.safetensors.index.json': { weight_map: wrong } };
  const error = await errorOf(() => read(shards, index));
  assert.match(
    error.message,
    "looks for tensor 'model.embed_tokens.weight' in b.safetensors, which lacks it",
  );
});

test("Phi-3's fused matrices are found by their parts, q, k, v and gate, up from the top", async () => {
  const phi3 = { ...llamaConfig, model_type: 'phi3' };
  const config = await withFolder({ 'config.json': phi3 }, (folder) => readModelConfig(folder));
  const stored = storedTensors(config).map(({ name, shape }) => source(name, shape));
  const shapes = new Map(stored.map(({ name, shape }) => [name, shape]));
  // 2 query heads and 1 KV head of 4, hidden size 8, MLP size 16.
  assert.equal(shapes.get('model.layers.0.self_attn.qkv_proj.weight'), [16, 8]);
  assert.equal(shapes.get('model.layers.0.mlp.gate_up_proj.weight'), [32, 8]);
  const found = await read(single(stored), {}, phi3);
  assert.equal(
    found.map(({ name, shape }) => ({ name, shape })),
    expectedTensors(config),
  );
  const offset = (name: string) =>
    found.find((tensor) => tensor.name === `model.layers.0.${name}_proj.weight`)!.offset;
  const rowBytes = 8 * 2;
  const q = offset('self_attn.q');
  assert.equal([offset('self_attn.k') - q, offset('self_attn.v') - q], [8 * rowBytes, 12 * rowBytes]);
  assert.is(offset('mlp.up') - offset('mlp.gate'), 16 * rowBytes);
  const separate = expectedTensors(config).map(({ name, shape }) => source(name, shape));
  const error = await errorOf(() => read(single(separate), {}, phi3));
  assert.match(error.message, /tensor 'model\.layers\.0\.self_attn\.qkv_proj\.weight' is missing/);
});

test('an index that leads out of the folder or to nothing is refused', async () => {
  const cases: readonly (readonly [index: object, message: RegExp])[] = [
    [{ weight_map: { a: '../x.safetensors' } }, /not a plain file name/],
    [{ weight_map: { a: '..' } }, /not a plain file name/],
    [{ weight_map: { a: 'x.safetensors' } }, /x\.safetensors cannot be opened/],
    [{ weight_map: { a: 1 } }, /field 'weight_map.a'/],
    [{}, /field 'weight_map'/],
  ];
  for (const [index, message] of cases) {
    const error = await errorOf(() => read([], { 'model.safetensors.index.json': index }));
    assert.is(error.code, 'BAD_FILE');
    assert.match(error.message, message);
  }
});

test('a folder without weights says which files were looked for', async () => {
  const error = await errorOf(() => read([], { 'pytorch_model.bin': 'x' }));
  assert.is(error.code, 'BAD_FILE');
  assert.match(error.message, 'neither model.safetensors nor model.safetensors.index.json');
});

test('a missing tensor, another shape and another dtype are named', async () => {
  const tensors = await tensorsOf(llamaConfig);
  const q = 'model.layers.0.self_attn.q_proj.weight';
  const replaced = (by: TensorSource[]) => tensors.flatMap((tensor) => (tensor.name === q ? by : [tensor]));
  const cases: readonly (readonly [by: TensorSource[], message: RegExp])[] = [
    [[], /tensor 'model\.layers\.0\.self_attn\.q_proj\.weight' is missing/],
    [[source(q, [8, 4])], /has shape \[8, 4\], but config\.json asks for \[8, 8\]/],
    [[source(q, [64])], /has shape \[64\], but/],
    [[source(q, [8, 8], 'I8')], /has dtype I8, but only F32, BF16, F16 are supported/],
  ];
  for (const [by, message] of cases) {
    const error = await errorOf(() => read(single(replaced(by))));
    assert.is(error.code, 'BAD_FILE');
    assert.match(error.message, message);
  }
});

test.run();
