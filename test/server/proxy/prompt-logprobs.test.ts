// Scored prompts behind a proxy over real nodes: the answer that one node gives, whichever way KV moves, and whole pools.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { EngineOptions } from '../../../src/engine-options.js';
import { withCluster } from '../../with-cluster.js';
import { type Json, parseEvents, text, withApi } from '../api/setup.js';

const greedy = { prompt: text, temperature: 0, max_tokens: 6, ignore_eos: true, return_token_ids: true };
const echoed = { ...greedy, echo: true, logprobs: 2 };
const messages = [{ role: 'user', content: text }];

const bodies: readonly (readonly [path: string, body: object])[] = [
  ['/v1/completions', { ...greedy, prompt_logprobs: 2 }],
  ['/v1/completions', echoed],
  ['/v1/completions', { ...echoed, n: 2, max_tokens: 0 }],
  ['/v1/completions', { ...echoed, logprobs: null, max_tokens: 0 }],
  ['/v1/completions', { ...echoed, logprobs: null, max_tokens: 0, n: 2 }],
  ['/v1/completions', { ...echoed, logprobs: null, max_tokens: 0, stream: true }],
  ['/v1/completions', { ...echoed, prompt: [text, 'the people of the sea'] }],
  ['/v1/completions', { ...echoed, stream: true }],
  ['/v1/chat/completions', { messages, temperature: 0, max_tokens: 6, prompt_logprobs: 1, session_id: 's' }],
];

const sameInAll = ({ id: _, created: __, kv_transfer_params: ___, usage, ...rest }: Json) => ({
  ...rest,
  numTokens: usage && [usage.prompt_tokens, usage.completion_tokens],
});

function parse(answer: string): Json {
  return answer.startsWith('data: ') ? parseEvents(answer).map(sameInAll) : sameInAll(JSON.parse(answer));
}

const ways: readonly EngineOptions['kvTransfer'][] = [
  { mode: 'uni' },
  { mode: 'bi' },
  { mode: 'bi', lookup: 'ticket' },
  { mode: 'bi', firstToken: 'decode' },
];

test('the proxy answers as one node does', async () => {
  const alone: Json[] = [];
  await withApi({}, async (api) => {
    for (const [path, body] of bodies) alone.push(parse((await api.post(path, body)).text));
  });
  for (const kvTransfer of ways) {
    await withCluster({ engine: { ...(kvTransfer && { kvTransfer }) } }, async (cluster) => {
      // What both nodes have cached of it by then must not matter.
      await cluster.post('/v1/completions', greedy);
      for (const [i, [path, body]] of bodies.entries()) {
        assert.equal(parse(await (await cluster.post(path, body)).text()), alone[i], JSON.stringify(body));
      }
      const stats = await cluster.post('/v1/completions', {
        ...greedy,
        prompt_logprobs: 0,
        return_prefill_stats: true,
      });
      const { usage, prefill_stats: prefill } = (await stats.json()) as Json;
      const ledger: number[] = Object.values(prefill.ledger);
      assert.is(
        ledger.reduce((sum, bin) => sum + bin, 0),
        usage.prompt_tokens,
      );
      assert.is(prefill.num_computed_tokens, usage.prompt_tokens);
      // The conversation goes on as if nothing had been.
      const after = await cluster.post('/v1/completions', { ...greedy, max_tokens: 2 });
      assert.is(((await after.json()) as Json).choices[0].finish_reason, 'length');
      await cluster.assertWhole();
    });
  }
});

test.run();
