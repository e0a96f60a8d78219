// The promises with the other backend: the same text in every mode, the ledger of the native one, and no mixing of both.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { EngineOptions } from '../../src/engine-options.js';
import type { ClusterOptions } from '../../src/server/cluster.js';
import type { PrefillStats } from '../../src/wire.js';
import type { Answer } from './by-hand.js';
import { playConversation, texts } from './conversation.js';

const numAnswerTokens = 90;
const prompts = [
  'Explain how a kettle knows that the water boils.',
  'And why is that so?',
  'Now the other way.',
];

const play = (options: ClusterOptions) => playConversation(options, prompts, numAnswerTokens);

/** What lengths alone determine, so that it must not depend on the backend. */
const ledgers = (answers: readonly Answer[]) =>
  answers.map(({ stats }) => [stats.ledger, stats.kv_bytes_d_to_p, stats.kv_bytes_p_to_d]);

const engine = (backend: 'cpu' | 'onnx', mode: 'uni' | 'bi'): EngineOptions => ({
  backend,
  // What the graphs keep K and V in, so that the native backend moves as many bytes.
  kvCacheDtype: 'float32',
  kvTransfer: { mode },
});

const aggregated = await play({ prefill: 0, decode: 1, engine: { backend: 'onnx' } });

for (const mode of ['uni', 'bi'] as const) {
  test(`${mode} on onnx answers as an aggregated node does, with the native backend's ledger`, async () => {
    const onnx = await play({ engine: engine('onnx', mode) });
    assert.equal(texts(onnx), texts(aggregated));
    const native = await play({ engine: engine('cpu', mode) });
    assert.equal(ledgers(onnx), ledgers(native));
    assert.is(onnx[1]!.stats.ledger.pulled_from_d > 0, mode === 'bi');
  });
}

test('nodes of different backends do not read each other, and answer all the same', async () => {
  const answers = await play({
    // A peer that is refused cannot say that it is done: holds end by expiry.
    engine: { backend: 'onnx', kvTransfer: { mode: 'bi', kvLeaseDurationMs: 500 } },
    prefillEngine: { backend: 'cpu' },
  });
  assert.equal(texts(answers), texts(aggregated));
  const read = (stats: PrefillStats) => stats.kv_bytes_d_to_p + stats.kv_bytes_p_to_d;
  assert.equal(
    answers.map(({ stats }) => read(stats)),
    [0, 0, 0],
  );
});

test.run();
