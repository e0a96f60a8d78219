// POST /v1/cache_query and its release: what is found, what is leased, what is refused.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { cacheQueryJson } from '../../../src/server/api/cache-query-json.js';
import type { CacheQueryAnswer } from '../../../src/wire.js';
import { sleep } from '../../engine/test-engine.js';
import { text, withApi } from './setup.js';

const completion = { prompt: text, temperature: 0, max_tokens: 1 };

test('a query says which blocks of a prompt are cached, and takes nothing', async () => {
  await withApi({}, async (api) => {
    const numTokens = api.engine.tokenizer.encode(text).length;
    const cold = await api.post('/v1/cache_query', { prompt: text });
    assert.equal([cold.status, cold.json.num_tokens, cold.json.num_blocks], [200, 0, 0]);
    await api.post('/v1/completions', completion);
    const { json } = await api.post('/v1/cache_query', { prompt: text });
    const numBlocks = Math.floor(numTokens / 16);
    assert.is(json.object, 'cache_query');
    assert.is(json.engine_id, api.engine.config.kvTransfer.engineId);
    assert.equal(
      [json.block_size, json.num_prompt_tokens, json.num_tokens, json.num_blocks],
      [16, numTokens, numBlocks * 16, numBlocks],
    );
    assert.is(json.block_ids.length, numBlocks);
    assert.match(json.block_hashes[0], /^[0-9a-f]{64}$/);
    assert.equal([json.tier, json.lease, json.kv_transfer_params], ['local', null, null]);
    assert.is(api.engine.state().numHolds, 0);
  });
});

test('without blocks a query says how much is cached and what is leased, and nothing block by block', async () => {
  await withApi({}, async (api) => {
    await api.post('/v1/completions', completion);
    const whole = await api.post('/v1/cache_query', { prompt: text });
    const { json } = await api.post('/v1/cache_query', { prompt: text, lease: true, return_blocks: false });
    assert.equal([json.num_tokens, json.num_blocks], [whole.json.num_tokens, whole.json.num_blocks]);
    assert.equal(json.kv_transfer_params.remote_block_ids, [whole.json.block_ids]);
    for (const field of ['block_ids', 'block_hashes', 'block_tiers']) {
      assert.ok(field in whole.json);
      assert.not.ok(field in json);
    }
    await api.post('/v1/cache_query/release', { lease_id: json.lease.id });
  });
});

test('token ids, messages and a model name are taken as on the completion endpoints', async () => {
  await withApi({}, async (api) => {
    const messages = [{ role: 'user', content: text }];
    const { json } = await api.post('/v1/chat/completions', { messages, max_tokens: 1 });
    const query = await api.post('/v1/cache_query', { messages, model: 'tiny' });
    assert.is(query.json.num_prompt_tokens, json.usage.prompt_tokens);
    assert.ok(query.json.num_tokens > 0);
    const tokens = api.engine.chatTemplate.encodeChat(messages);
    assert.equal(
      (await api.post('/v1/cache_query', { prompt: tokens })).json.block_ids,
      query.json.block_ids,
    );
    assert.is((await api.post('/v1/cache_query', { prompt: text, model: 'x' })).status, 404);
    const salted = await api.post('/v1/cache_query', { messages, cache_salt: 'other' });
    assert.is(salted.json.num_tokens, 0);
  });
});

test('what shapes the tokens of a chat shapes those of its query', async () => {
  await withApi({}, async (api) => {
    const messages = [
      { role: 'user', content: text },
      { role: 'assistant', content: 'and so' },
    ];
    for (const fields of [
      {},
      { add_generation_prompt: false },
      { continue_final_message: true },
      { prompt_token_ids: [300, 301, 302] },
    ]) {
      const chat = await api.post('/v1/chat/completions', {
        messages,
        max_tokens: 1,
        return_token_ids: true,
        ...fields,
      });
      const query = await api.post('/v1/cache_query', { messages, return_token_ids: true, ...fields });
      assert.equal(query.json.prompt_token_ids, chat.json.prompt_token_ids, JSON.stringify(fields));
    }
  });
});

test('a lease holds the blocks until it is released, once', async () => {
  await withApi({}, async (api) => {
    await api.post('/v1/completions', completion);
    const { json } = await api.post('/v1/cache_query', { prompt: text, lease: true });
    assert.type(json.lease.id, 'string');
    assert.ok(json.lease.expires_in_ms > 0);
    const params = json.kv_transfer_params;
    assert.equal(params.remote_block_ids, [json.block_ids]);
    assert.equal(
      [params.remote_engine_id, params.remote_request_id, params.remote_num_tokens],
      [json.engine_id, json.lease.id, json.num_tokens],
    );
    const state = (await api.get('/state')).json;
    assert.equal([state.numHolds, state.numBlocks - state.numFreeBlocks], [1, 1 + json.num_blocks]);
    assert.equal((await api.post('/reset_prefix_cache', {})).json, { success: false });
    const release = () => api.post('/v1/cache_query/release', { lease_id: json.lease.id });
    assert.equal((await release()).json, {
      object: 'cache_query.release',
      lease_id: json.lease.id,
      released: true,
    });
    assert.is((await release()).json.released, false);
    assert.equal((await api.post('/reset_prefix_cache', {})).json, { success: true });
  });
});

test('a lease on nothing is none', async () => {
  await withApi({}, async (api) => {
    const { json } = await api.post('/v1/cache_query', { prompt: text, lease: true });
    assert.equal([json.num_tokens, json.lease, json.kv_transfer_params], [0, null, null]);
  });
});

test('a lease expires by itself', async () => {
  await withApi({ kvTransfer: { kvLeaseDurationMs: 30 } }, async (api) => {
    await api.post('/v1/completions', completion);
    await api.post('/v1/cache_query', { prompt: text, lease: true });
    await sleep(60);
    assert.is((await api.get('/state')).json.numHolds, 0);
  });
});

test('the completion endpoints answer a query instead of generating', async () => {
  await withApi({}, async (api) => {
    await api.post('/v1/completions', completion);
    const asked = await api.post('/v1/cache_query', { prompt: text });
    const body = { ...completion, stream: true, kv_transfer_params: { cache_query: true, lease: true } };
    const { status, json } = await api.post('/v1/completions', body);
    assert.is(status, 200);
    assert.equal(json.block_ids, asked.json.block_ids);
    assert.is(json.lease.id, json.kv_transfer_params.remote_request_id);
    assert.is(api.engine.releaseLease(json.lease.id), true);
    const chat = await api.post('/v1/chat/completions', {
      messages: [{ role: 'user', content: text }],
      kv_transfer_params: { cache_query: true },
    });
    assert.equal([chat.json.object, chat.json.num_tokens, chat.json.lease], ['cache_query', 0, null]);
  });
});

test('only_free forgets what nobody uses and leaves the leased blocks', async () => {
  await withApi({}, async (api) => {
    await api.post('/v1/completions', completion);
    await api.post('/v1/completions', { ...completion, prompt: new Array(40).fill(300) });
    const { json } = await api.post('/v1/cache_query', { prompt: text, lease: true });
    assert.equal((await api.post('/reset_prefix_cache?only_free=true', {})).json, { success: true });
    assert.is((await api.get('/state')).json.numCachedBlocks, json.num_blocks);
    await api.post('/v1/cache_query/release', { lease_id: json.lease.id });
  });
});

test('an answer is written as JSON would write it, whatever its length', () => {
  const both = ['local', 'shared'] as const;
  for (const count of [0, 1, 3, 256, 1000]) {
    const answer: CacheQueryAnswer = {
      object: 'cache_query',
      engine_id: 'Gerät "D"',
      request_id: 'q',
      block_size: 16,
      num_prompt_tokens: 60,
      num_tokens: 16 * count,
      num_blocks: count,
      block_ids: Array.from({ length: count }, (_, i) => i + 1),
      block_hashes: Array.from({ length: count }, (_, i) => `${i}`.repeat(64)),
      tier: 'local',
      block_tiers: Array.from({ length: count }, (_, i) => (i < 2 ? both : ['shared'])),
      lease: null,
      kv_transfer_params: null,
    };
    assert.equal(JSON.parse(cacheQueryJson(answer).toString()), answer);
  }
});

test.run();
