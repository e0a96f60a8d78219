// The promises for every family of decoders: the same text natively and through ONNX, in uni, bi and aggregated mode.
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { EngineOptions } from '../../src/engine-options.js';
import { createDummyModel } from '../../src/model/dummy-model.js';
import { publishedShapeNames } from '../../src/model/published-shapes.js';
import type { ClusterOptions } from '../../src/server/cluster.js';
import { withFolder } from '../model/model-folders.js';
import { playConversation, texts } from './conversation.js';

const numAnswerTokens = 70;
const prompts = ['Explain how a kettle knows that the water boils.', 'And why is that so?'];

const play = (options: ClusterOptions) => playConversation(options, prompts, numAnswerTokens);

for (const arch of publishedShapeNames.filter((name) => name.startsWith('tiny-'))) {
  test(`${arch}: one text on both backends, aggregated, uni and bi`, () =>
    withFolder({}, async (parent) => {
      const model = path.join(parent, arch);
      await createDummyModel(model, { arch, seed: 5, format: 'both' });
      const engine = (backend: 'cpu' | 'onnx', mode: 'uni' | 'bi'): EngineOptions => ({
        model,
        backend,
        dtype: backend === 'cpu' ? 'float32' : 'auto',
        kvCacheDtype: 'float32',
        kvTransfer: { mode },
      });
      const [aggregated, uni, bi] = await Promise.all([
        play({
          prefill: 0,
          decode: 1,
          engine: { model, backend: 'cpu', dtype: 'float32', kvCacheDtype: 'float32' },
        }),
        play({ engine: engine('onnx', 'uni') }),
        play({ engine: engine('cpu', 'bi') }),
      ]);
      const expected = texts(aggregated);
      assert.ok(new Set(expected.join(' ').split(' ')).size > 20, expected.join('\n'));
      assert.equal(texts(uni), expected);
      assert.equal(texts(bi), expected);
      assert.ok(bi[1]!.stats.ledger.pulled_from_d > 0);
      assert.is(bi[1]!.stats.ledger.template_mismatch, 0);
    }));
}

test.run();
