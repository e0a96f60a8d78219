// Which exported decoders are taken, and the sentence with which others are refused.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readSignature, type ValueInfo } from '../../src/model/onnx-signature.js';
import { errorOf } from './model-folders.js';

type Values = Readonly<Record<string, ValueInfo>>;

const value = (name: string, type: string | null, ...shape: (number | string)[]): ValueInfo => ({
  name,
  type,
  shape,
});

const named = (...values: ValueInfo[]): Values => Object.fromEntries(values.map((info) => [info.name, info]));

function kv(prefix: string, layer: number, type = 'float32'): ValueInfo[] {
  return ['key', 'value'].map((part) =>
    value(`${prefix}.${layer}.${part}`, type, 'batch_size', 2, 'past_sequence_length', 16),
  );
}

const inputs = named(
  value('input_ids', 'int64', 'batch_size', 'sequence_length'),
  value('attention_mask', 'int64', 'batch_size', 'total_sequence_length'),
  value('position_ids', 'int64', 'batch_size', 'sequence_length'),
  ...[0, 1].flatMap((layer) => kv('past_key_values', layer)),
);

const outputs = named(
  value('logits', 'float32', 'batch_size', 'sequence_length', 100),
  ...[0, 1].flatMap((layer) => kv('present', layer)),
);

const read = (ins: Values, outs: Values) =>
  readSignature('model.onnx', Object.values(ins), Object.values(outs));

function without(values: Values, name: string): Values {
  return Object.fromEntries(Object.entries(values).filter(([key]) => key !== name));
}

test('a published export is read whole', () => {
  assert.equal(read(inputs, outputs), {
    numLayers: 2,
    numKvHeads: 2,
    headDim: 16,
    vocabSize: 100,
    kvType: 'float32',
    hasPositionIds: true,
    hasNumLogitsToKeep: false,
  });
});

test('half-precision KV, no position ids and a choice of logits are fine', () => {
  const half = named(
    ...[0, 1].flatMap((layer) => [
      ...kv('past_key_values', layer, 'float16'),
      ...kv('present', layer, 'float16'),
    ]),
  );
  const past = Object.fromEntries(Object.entries(half).filter(([name]) => name.startsWith('past')));
  const present = Object.fromEntries(Object.entries(half).filter(([name]) => name.startsWith('present')));
  const keep = named(value('num_logits_to_keep', 'int64'));
  const signature = read(without({ ...inputs, ...past, ...keep }, 'position_ids'), {
    ...outputs,
    ...present,
  });
  assert.is(signature.kvType, 'float16');
  assert.is(signature.hasPositionIds, false);
  assert.is(signature.hasNumLogitsToKeep, true);
});

const refused: readonly (readonly [what: string, inputs: Values, outputs: Values, message: RegExp])[] = [
  ['without input_ids', without(inputs, 'input_ids'), outputs, /input 'input_ids' is missing/],
  [
    'without a cache',
    named(inputs.input_ids!, inputs.attention_mask!),
    outputs,
    /'past_key_values\.0\.key' is missing/,
  ],
  [
    'half a layer',
    without(inputs, 'past_key_values.1.value'),
    outputs,
    /'past_key_values\.1\.value' is missing/,
  ],
  ['without present', inputs, without(outputs, 'present.1.key'), /output 'present\.1\.key' is missing/],
  [
    'merged with a switch',
    { ...inputs, ...named(value('use_cache_branch', 'bool', 1)) },
    outputs,
    /input 'use_cache_branch' is not one that a decoder is given/,
  ],
  [
    'cache in bf16',
    { ...inputs, ...named(...kv('past_key_values', 0, 'bfloat16')) },
    outputs,
    /'past_key_values\.0\.key' is bfloat16, but only float32 or float16/,
  ],
  [
    'mixed cache types',
    { ...inputs, ...named(...kv('past_key_values', 1, 'float16')) },
    outputs,
    /'past_key_values\.1\.key' is float16, but only float32/,
  ],
  [
    'unknown head size',
    { ...inputs, ...named(value('past_key_values.0.key', 'float32', 'b', 2, 'p', 'd')) },
    outputs,
    /'past_key_values\.0\.key' has shape \(b, 2, p, d\), but expected is \(batch, kv_heads, past, head_dim\)/,
  ],
  [
    'another head size in one layer',
    { ...inputs, ...named(value('past_key_values.1.key', 'float32', 'b', 2, 'p', 8)) },
    outputs,
    /'past_key_values\.1\.key' has shape \(b, 2, p, 8\)/,
  ],
  [
    'positions in three dimensions',
    { ...inputs, ...named(value('position_ids', 'int64', 3, 'b', 's')) },
    outputs,
    /'position_ids' has shape \(3, b, s\), but expected are 2 dimensions/,
  ],
  [
    'logits of unknown size',
    inputs,
    { ...outputs, ...named(value('logits', 'float32', 'b', 's', 'v')) },
    /'logits' has no fixed vocabulary size/,
  ],
  [
    'an input that is no tensor',
    { ...inputs, ...named(value('input_ids', null)) },
    outputs,
    /'input_ids' is no tensor, but only int64/,
  ],
];

for (const [what, ins, outs, message] of refused) {
  test(`a graph ${what} is refused`, async () => {
    const error = await errorOf(() => read(ins, outs));
    assert.is(error.code, 'BAD_FILE');
    assert.match(error.message, message);
    assert.match(error.message, 'model.onnx');
  });
}

test.run();
