// The first promise on the embedded default model: its heads have the usual size, which kernels have loops of their own for.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ClusterOptions } from '../../src/server/cluster.js';
import { playConversation, texts } from './conversation.js';

/** Long enough to decode through every part of an attention segment. */
const numAnswerTokens = 100;
const prompts = [
  'Explain how a kettle knows that the water boils.',
  'And why is that so?',
  'Now the other way.',
];
const play = (options: ClusterOptions) => playConversation(options, prompts, numAnswerTokens);

const model = 'default';
const aggregated = await play({ prefill: 0, decode: 1, engine: { model } });

for (const mode of ['uni', 'bi'] as const) {
  test(`${mode} on the default model answers as an aggregated node does`, async () => {
    const answers = await play({ engine: { model, numThreads: 2, kvTransfer: { mode } } });
    assert.equal(texts(answers), texts(aggregated));
    const pulled = answers.reduce((sum, { stats }) => sum + stats.ledger.pulled_from_d, 0);
    assert.is(pulled > 0, mode === 'bi');
  });
}

test.run();
