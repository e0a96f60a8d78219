// The first two promises over real processes: identical greedy text in every mode, and a ledger that lengths alone determine.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ClusterOptions } from '../../src/server/cluster.js';
import { ledgerBins, type PrefillStats } from '../../src/wire.js';
import { withCluster } from '../with-cluster.js';
import { type Answer, chat, complete, type Message } from './by-hand.js';

const numTurns = 3;
const numAnswerTokens = 90;
const openings = [
  'Explain how a kettle knows that the water boils.',
  'Name rivers and what they carry to the sea.',
];
const followUps = ['And why is that so?', 'Now say it the other way around, please.'];

/** Every turn of every conversation, turn-major, as the proxy answers it. */
async function play(options: ClusterOptions): Promise<Answer[][]> {
  return withCluster(options, async (cluster) => {
    const histories: Message[][] = openings.map(() => []);
    const answers: Answer[][] = openings.map(() => []);
    for (let turn = 0; turn < numTurns; turn += 1) {
      await Promise.all(
        histories.map(async (history, i) => {
          history.push({ role: 'user', content: turn === 0 ? openings[i]! : followUps[turn - 1]! });
          const answer = await complete(
            cluster.proxyUrl,
            chat(history, numAnswerTokens, `conversation-${i}`),
          );
          history.push({ role: 'assistant', content: answer.text });
          answers[i]!.push(answer);
        }),
      );
    }
    await cluster.assertWhole();
    return answers;
  });
}

const texts = (answers: Answer[][]) => answers.map((turns) => turns.map((answer) => answer.text));
const stats = (answers: Answer[][], turn: number): PrefillStats => answers[0]![turn]!.stats;

const aggregated = await play({ prefill: 0, decode: 1 });
const modes = {
  uni: { engine: { kvTransfer: { mode: 'uni' } } },
  'bi by query': { engine: { kvTransfer: { mode: 'bi' } } },
  // Tickets of last turns are held until they expire.
  'bi by ticket': { engine: { kvTransfer: { mode: 'bi', lookup: 'ticket', decoderKvBlocksTtlMs: 2500 } } },
  'bi over tcp': { engine: { kvTransfer: { mode: 'bi', agent: 'tcp' } } },
} as const satisfies Record<string, ClusterOptions>;

for (const [name, options] of Object.entries(modes)) {
  test(`${name} answers every turn as an aggregated node does`, async () => {
    const answers = await play(options);
    assert.equal(texts(answers), texts(aggregated));
    for (const turns of answers) {
      for (const { stats: turnStats } of turns) {
        const sum = ledgerBins.reduce((total, bin) => total + turnStats.ledger[bin], 0);
        assert.is(sum, turnStats.num_prompt_tokens);
        assert.is(turnStats.ledger.template_mismatch, 0);
      }
    }
    const [first, second] = [stats(answers, 0), stats(answers, 1)];
    const numHeldByP = Math.floor(first.num_prompt_tokens / 16) * 16;
    const numWithKv = first.num_prompt_tokens + numAnswerTokens - 1;
    const numHeldByD = name === 'bi by ticket' ? numWithKv : Math.floor(numWithKv / 16) * 16;
    const numPulled = name === 'uni' ? 0 : numHeldByD - numHeldByP;
    assert.is(second.ledger.local_hit, numHeldByP);
    assert.is(second.ledger.pulled_from_d, numPulled);
    assert.is(second.num_computed_tokens, second.num_prompt_tokens - numHeldByP - numPulled);
    assert.is(second.ledger.new, second.num_prompt_tokens - numWithKv);
    assert.is(second.kv_bytes_d_to_p > 0, name !== 'uni');
    assert.ok(second.kv_bytes_p_to_d > 0);
  });
}

test('answers are no constant: conversations and turns differ', () => {
  const all = texts(aggregated).flat();
  assert.is(new Set(all).size, all.length);
});

test.run();
