// Answers whose text the tokenizer would split otherwise: lost KV without --reuse-token-ids, found KV with it.
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ClusterOptions } from '../../src/server/cluster.js';
import { byteLevelTokenizer, withTinyModel } from '../model/model-folders.js';
import { parseEvents } from '../server/api/setup.js';
import { withCluster } from '../with-cluster.js';
import { type Answer, chat, complete, type Message } from './by-hand.js';
import { playConversation, texts } from './conversation.js';

const numAnswerTokens = 60;
const prompts = ['Explain how a kettle knows that the water boils.', 'And why is that so?', 'And then?'];

/** Answers are letters, one or two a token, so their text has many splits, of which the tokenizer takes one. */
function withAmbiguousModel<T>(use: (folder: string) => Promise<T>): Promise<T> {
  return withTinyModel(async (folder) => {
    const letters = [...'abcdefghijklmnopqrstuvwxyz'];
    const merges = letters.flatMap((a) => letters.map((b) => [a, b] as const));
    const specials = ['<|end|>', '<|system|>', '<|user|>', '<|assistant|>', '<|tool|>'];
    const writeJson = (name: string, json: object) =>
      writeFile(path.join(folder, name), JSON.stringify(json));
    await writeJson('tokenizer.json', byteLevelTokenizer(merges, specials));
    const isLetters = (id: number) => (id >= 97 && id <= 122) || (id >= 256 && id < 256 + merges.length);
    const suppressed = Array.from({ length: 4360 }, (_, id) => id).filter((id) => !isLetters(id));
    await writeJson('generation_config.json', { suppress_tokens: suppressed });
    return use(folder);
  });
}

const play = (options: ClusterOptions) => playConversation(options, prompts, numAnswerTokens);

const mismatches = (answers: readonly Answer[]) => answers.map(({ stats }) => stats.ledger.template_mismatch);
const pulled = (answers: readonly Answer[]) =>
  answers.reduce((sum, { stats }) => sum + stats.ledger.pulled_from_d, 0);

test('an answer that re-tokenises otherwise is recomputed, and pulled where its ids are reused', () =>
  withAmbiguousModel(async (model) => {
    const [without, reusing, aggregated] = await Promise.all([
      play({ engine: { model } }),
      play({ engine: { model, reuseTokenIds: true } }),
      play({ prefill: 0, decode: 1, engine: { model, reuseTokenIds: true } }),
    ]);
    assert.ok(
      mismatches(without)
        .slice(1)
        .every((tokens) => tokens > 0),
      mismatches(without).join(),
    );
    assert.equal(mismatches(reusing), [0, 0, 0]);
    assert.ok(pulled(reusing) > pulled(without) + numAnswerTokens, `${pulled(reusing)} ${pulled(without)}`);
    assert.equal(texts(aggregated), texts(reusing));
  }));

test('in ticket mode the ids travel with the ticket, in bodies and in streams', () =>
  withAmbiguousModel(async (model) => {
    // What D holds behind the last turn nobody comes for.
    const kvTransfer = { lookup: 'ticket', decoderKvBlocksTtlMs: 3000 } as const;
    const without = await play({ engine: { model, kvTransfer } });
    const reusing = await play({ engine: { model, kvTransfer, reuseTokenIds: true } });
    const asked = await play({ engine: { model, reuseTokenIds: true } });
    assert.equal(mismatches(reusing), [0, 0, 0]);
    const computedAgain = (answers: readonly Answer[]) => answers[1]!.stats.num_recomputed_tokens;
    assert.ok(computedAgain(without) > computedAgain(reusing) + 16);
    assert.ok(pulled(reusing) > pulled(without) + numAnswerTokens, `${pulled(reusing)} ${pulled(without)}`);
    assert.equal(texts(reusing), texts(asked));
    await withCluster({ engine: { model, kvTransfer, reuseTokenIds: true } }, async (cluster) => {
      const history: Message[] = [{ role: 'user', content: prompts[0]! }];
      const body = { ...chat(history, numAnswerTokens, 'streamed'), stream: true };
      const events = await (await cluster.post('/v1/chat/completions', body)).text();
      // The ticket is the proxy's; the client sees nothing of it.
      assert.not.match(events, /remote_answer_token_ids/);
      const said = parseEvents(events).map(({ choices }) => choices[0].delta.content);
      history.push({ role: 'assistant', content: said.join('') }, { role: 'user', content: prompts[1]! });
      const next = await complete(cluster.proxyUrl, chat(history, numAnswerTokens, 'streamed'));
      assert.is(next.stats.ledger.template_mismatch, 0);
      assert.is(next.text, reusing[1]!.text);
    });
  }));

test('a template that changes answers makes a mismatch all the same, and nothing is spliced into it', () =>
  withAmbiguousModel(async (model) => {
    const file = path.join(model, 'tokenizer_config.json');
    const config = JSON.parse(await readFile(file, 'utf8')) as { chat_template: string };
    const shortening = config.chat_template.replace(
      "(message['content'] or '')",
      "(message['content'])[:20]",
    );
    assert.is.not(shortening, config.chat_template);
    await writeFile(file, JSON.stringify({ ...config, chat_template: shortening }));
    const answers = await play({ engine: { model, reuseTokenIds: true } });
    assert.ok(
      mismatches(answers)
        .slice(1)
        .every((tokens) => tokens > 0),
      mismatches(answers).join(),
    );
  }));

test.run();
