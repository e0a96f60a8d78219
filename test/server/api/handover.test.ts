// Two nodes asked hop by hop in vLLM's fields.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KvLookup } from '../../../src/config.js';
import { firstHop } from '../../clients/vllm-proxies.js';
import { assertWhole } from '../../engine/test-engine.js';
import { withApis } from './api-pair.js';
import { type Json, type TestApi, text } from './setup.js';

const path = '/v1/completions';
const body = { prompt: text, temperature: 0, max_tokens: 40, ignore_eos: true };

const options = (lookup: KvLookup) => ({ kvTransfer: { lookup, decoderKvBlocksTtlMs: 200 } });

async function prefill(p: TestApi, fields: object = {}): Promise<Json> {
  const { json } = await p.post(path, { ...body, max_tokens: 1, kv_transfer_params: firstHop, ...fields });
  return json.kv_transfer_params;
}

test('P answers with what D needs, in the fields that vLLM has', async () => {
  await withApis(options('query'), async (p, d) => {
    const plain = (await p.post(path, body)).json.choices[0].text;
    const params = await prefill(p);
    assert.equal(
      [params.do_remote_prefill, params.do_remote_decode, params.tp_size, params.remote_engine_id],
      [true, false, 1, p.engine.config.kvTransfer.engineId],
    );
    assert.is(params.remote_block_ids.length, 1);
    const { json } = await d.post(path, { ...body, kv_transfer_params: params, return_prefill_stats: true });
    assert.is(json.choices[0].text, plain);
    assert.is(json.prefill_stats.num_decode_computed_tokens, 1);
    assert.ok(json.prefill_stats.kv_bytes_p_to_d > 0);
  });
});

test("D's loads are counted under the names of vLLM's NIXL connector, failed ones apart", async () => {
  await withApis(options('query'), async (p, d) => {
    const params = await prefill(p);
    await d.post(path, { ...body, kv_transfer_params: params });
    const nowhere = { ...(await prefill(p)), remote_port: 1 };
    await d.post(path, { ...body, cache_salt: 'other', kv_transfer_params: nowhere });
    const metrics = (await d.get('/metrics')).text;
    const value = (name: string) =>
      Number(new RegExp(`^vllm:nixl_${name}\\{[^}]*\\} (\\S+)$`, 'm').exec(metrics)?.[1]);
    const counts = ['xfer_time_seconds_count', 'bytes_transferred_count', 'num_descriptors_count'];
    assert.equal(counts.map(value), [1, 1, 1]);
    assert.is(value('bytes_transferred_sum'), d.engine.kvTransferStats().bytesReceived);
    assert.is(value('num_descriptors_sum'), params.remote_block_ids[0].length);
    assert.is(value('num_failed_transfers_total'), 1);
  });
});

test('usage on D reports what was cached on P, not what was handed over', async () => {
  await withApis(options('query'), async (p, d) => {
    const cold = await d.post(path, { ...body, kv_transfer_params: await prefill(p) });
    assert.is(cold.json.usage.prompt_tokens_details.cached_tokens, 0);
    const chunks = await d.stream(path, {
      ...body,
      kv_transfer_params: await prefill(p),
      stream_options: { include_usage: true },
    });
    const { usage } = chunks.at(-1);
    assert.is(usage.prompt_tokens_details.cached_tokens, Math.floor((usage.prompt_tokens - 1) / 16) * 16);
  });
});

test('the final chunk of a stream carries the ticket', async () => {
  await withApis(options('ticket'), async (p, d) => {
    const chunks = await d.stream(path, { ...body, kv_transfer_params: await prefill(p) });
    const tickets = chunks.filter((chunk) => chunk.kv_transfer_params);
    assert.is(tickets.length, 1);
    assert.is(tickets[0].choices[0].finish_reason, 'length');
    const numPromptTokens = d.engine.tokenizer.encode(text).length;
    assert.is(tickets[0].kv_transfer_params.remote_num_tokens, numPromptTokens + 39);
  });
});

test('of several samples the first fetches what P holds, the others find it on D', async () => {
  await withApis(options('query'), async (p, d) => {
    const params = await prefill(p);
    const call = { ...body, n: 3, temperature: 1, seed: 3, kv_transfer_params: params };
    const { status, json } = await d.post(path, call);
    assert.is(status, 200);
    assert.is(new Set(json.choices.map((choice: Json) => choice.text)).size, 3);
    const { hits, externalHits, queries } = d.engine.prefixCacheStats();
    const numPromptTokens = json.usage.prompt_tokens;
    assert.is(queries, 3 * numPromptTokens);
    assert.is(externalHits, numPromptTokens);
    assert.is(hits, 2 * Math.floor((numPromptTokens - 1) / 16) * 16);
    await assertWhole(p.engine);
    // A client that leaves while the others wait for the first.
    await d.leaveAfter(path, { ...call, max_tokens: 1000, kv_transfer_params: await prefill(p) }, 2);
    await assertWhole(d.engine);
  });
});

test('a stop string on P still hands over', async () => {
  await withApis(options('query'), async (p) => {
    const { json } = await p.post(path, body);
    const stop = json.choices[0].text.slice(2, 5);
    const params = await prefill(p, { stop, max_tokens: 20 });
    assert.is(params.do_remote_prefill, true);
    assert.is(p.engine.state().numHolds, 1);
    assert.is(p.engine.releaseLease(params.remote_request_id), true);
  });
});

test.run();
