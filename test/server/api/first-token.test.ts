// P's first token between two nodes, hop by hop: what P says and keeps, what D believes.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { assertWhole } from '../../engine/test-engine.js';
import { withApis } from './api-pair.js';
import { type Json, type TestApi, text } from './setup.js';

const path = '/v1/completions';
const body = { prompt: text, temperature: 0, max_tokens: 12, ignore_eos: true };
const asked = { do_remote_decode: true, do_remote_prefill: false, return_first_token: true };

async function prefill(p: TestApi, fields: object = {}): Promise<Json> {
  const { json } = await p.post(path, { ...body, kv_transfer_params: asked, ...fields });
  return json;
}

test('P says the token and how it encoded the prompt; D answers from there and computes nothing of the prompt', async () => {
  await withApis({}, async (p, d) => {
    const plain = (await d.post(path, { ...body, return_token_ids: true, logprobs: 2 })).json.choices[0];
    const handOver = await prefill(p, { logprobs: 2 });
    assert.is(handOver.object, 'kv_transfer.hand_over');
    assert.equal(handOver.prompt_token_ids, plain.prompt_token_ids);
    const { remote_first_token: token, ...held } = handOver.kv_transfer_params;
    assert.is(token.token_id, plain.token_ids[0]);
    assert.is(token.logprobs.logprob, plain.logprobs.token_logprobs[0]);
    assert.is(held.remote_num_tokens, plain.prompt_token_ids.length);
    d.engine.resetPrefixCache();
    const { json } = await d.post(path, {
      ...body,
      logprobs: 2,
      return_token_ids: true,
      return_prefill_stats: true,
      kv_transfer_params: handOver.kv_transfer_params,
    });
    assert.equal(json.choices[0], plain);
    assert.is(json.usage.completion_tokens, 12);
    assert.is(json.prefill_stats.num_decode_computed_tokens, 0);
    assert.ok(json.prefill_stats.kv_bytes_p_to_d > 0);
  });
});

test('a stream that is told so leaves out the first token, and only that', async () => {
  await withApis({}, async (p, d) => {
    const plain = await d.stream(path, body);
    const textOf = (chunks: Json[]) => chunks.map((chunk) => chunk.choices[0].text).join('');
    for (const streamed of [false, true]) {
      const { kv_transfer_params: params } = await prefill(p);
      const token = { ...params.remote_first_token, streamed };
      const chunks = await d.stream(path, {
        ...body,
        kv_transfer_params: { ...params, remote_first_token: token },
      });
      assert.is(textOf(chunks), textOf(streamed ? plain.slice(1) : plain));
      assert.ok(chunks.every((chunk) => chunk.created === token.created));
    }
  });
});

test('a hand-over whose blocks are gone: D computes the prompt and says the same', async () => {
  await withApis({}, async (p, d) => {
    const plain = (await d.post(path, body)).json.choices[0].text;
    const { kv_transfer_params: params } = await prefill(p);
    p.engine.releaseLease(params.remote_request_id);
    p.engine.resetPrefixCache();
    d.engine.resetPrefixCache();
    const { json } = await d.post(path, { ...body, return_prefill_stats: true, kv_transfer_params: params });
    assert.is(json.choices[0].text, plain);
    assert.is(json.prefill_stats.num_decode_computed_tokens, json.usage.prompt_tokens);
    // Nothing but the token, as from a P that could hold nothing.
    d.engine.resetPrefixCache();
    const { do_remote_prefill, remote_first_token } = params;
    const bare = { do_remote_prefill, remote_first_token };
    assert.is((await d.post(path, { ...body, kv_transfer_params: bare })).json.choices[0].text, plain);
  });
});

test('an answer that ends with its first token is answered by P, and nothing is held', async () => {
  await withApis({}, async (p) => {
    const first = (await prefill(p)).kv_transfer_params;
    p.engine.releaseLease(first.remote_request_id);
    const stopId = first.remote_first_token.token_id;
    for (const fields of [{ max_tokens: 1 }, { stop_token_ids: [stopId] }]) {
      const json = await prefill(p, fields);
      assert.is(json.object, 'text_completion');
      assert.is(json.choices[0].finish_reason, 'max_tokens' in fields ? 'length' : 'stop');
      assert.is(json.usage.completion_tokens, 1);
      assert.is(json.kv_transfer_params, null);
      assert.is(p.engine.state().numHolds, 0);
    }
    await assertWhole(p.engine);
  });
});

test('P refuses what D would refuse, before it says anything', async () => {
  await withApis({}, async (p) => {
    const { status } = await p.post(path, { ...body, max_tokens: 100_000, kv_transfer_params: asked });
    assert.is(status, 400);
  });
});

test('nonsense for a first token is a 400 that names it, and a token that ends the answer ends it', async () => {
  await withApis({}, async (p, d) => {
    const { kv_transfer_params: params } = await prefill(p);
    const { token_id } = params.remote_first_token;
    const alternatives = (count: number) => Array.from({ length: count }, () => ({ token_id, logprob: -1 }));
    const nonsense = [
      { token_id: -1 },
      { token_id: 1.5 },
      { token_id: 2 ** 31 - 1 },
      { token_id: 'a' },
      {},
      5,
      { token_id, logprobs: { logprob: -1, rank: 0, top: [] } },
      { token_id, logprobs: { logprob: -1, rank: 1, top: alternatives(129) } },
      { token_id, logprobs: { logprob: -1, rank: 1, top: [{ token_id: 2 ** 31 - 1, logprob: -1 }] } },
    ];
    for (const token of nonsense) {
      const kv_transfer_params = { ...params, remote_first_token: token };
      const { status, json } = await d.post(path, { ...body, kv_transfer_params });
      assert.is(status, 400, JSON.stringify(token));
      assert.is(json.error.param, 'kv_transfer_params.remote_first_token');
    }
    const missing = await d.post(path, { ...body, logprobs: 1, kv_transfer_params: params });
    assert.is(missing.status, 400);
    assert.match(missing.json.error.message, /alternatives/);
    const ended = await d.post(path, {
      ...body,
      stop_token_ids: [token_id],
      kv_transfer_params: params,
    });
    assert.equal(
      [ended.json.choices[0].finish_reason, ended.json.choices[0].stop_reason],
      ['stop', token_id],
    );
    assert.is(ended.json.usage.completion_tokens, 1);
    await assertWhole(p.engine);
  });
});

test('what P generated counts as P’s, what D did as D’s', async () => {
  await withApis({}, async (p, d) => {
    const { kv_transfer_params } = await prefill(p);
    await d.post(path, { ...body, kv_transfer_params });
    const generated = async (api: TestApi) =>
      /^vllm:generation_tokens_total\S* (\d+)/m.exec((await api.get('/metrics')).text)?.[1];
    assert.equal([await generated(p), await generated(d)], ['1', '11']);
  });
});

test.run();
