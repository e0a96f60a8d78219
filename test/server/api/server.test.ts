// The other endpoints of a node, and clients that leave or read slowly.
import { createServer } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../../src/errors.js';
import { startApiServer } from '../../../src/server/api/api-server.js';
import { assertWhole, sleep, startEngine } from '../../engine/test-engine.js';
import { parseEvents, text, withApi } from './setup.js';

const long = { prompt: text, temperature: 0, max_tokens: 1500, ignore_eos: true };

test('models, version, health and ping answer as vLLM does', async () => {
  await withApi({ scheduler: { maxModelLen: 500 } }, async (api) => {
    const { json } = await api.get('/v1/models');
    const [model] = json.data;
    assert.equal([json.object, model.id, model.object, model.max_model_len], ['list', 'tiny', 'model', 500]);
    assert.match((await api.get('/version')).json.version, /^\d+\.\d+\.\d+/);
    for (const path of ['/health', '/ping']) {
      const reply = await api.get(path);
      assert.equal([reply.status, reply.text], [200, '']);
    }
  });
});

test('text becomes tokens and tokens become text', async () => {
  await withApi({}, async (api) => {
    const { json } = await api.post('/tokenize', { prompt: text, return_token_strs: true });
    assert.equal(json.tokens, api.engine.tokenizer.encode(text));
    assert.equal([json.count, json.token_strs.length], [json.tokens.length, json.tokens.length]);
    assert.is(json.max_model_len, api.engine.maxModelLen);
    assert.is((await api.post('/detokenize', { tokens: json.tokens })).json.prompt, text);
    const messages = [{ role: 'user', content: text }];
    const chat = await api.post('/tokenize', { messages });
    assert.equal(chat.json.tokens, api.engine.chatTemplate.encodeChat(messages));
    assert.is(chat.json.token_strs, null);
  });
});

test('a client that leaves in the middle of a stream aborts its request', async () => {
  await withApi({}, async (api) => {
    await api.leaveAfter('/v1/completions', long, 3);
    await assertWhole(api.engine);
    await api.leaveAfter('/v1/chat/completions', { ...long, messages: [{ role: 'user', content: text }] }, 3);
    await assertWhole(api.engine);
    const metrics = (await api.get('/metrics')).text;
    assert.match(metrics, /vllm:request_success_total\{[^}]*finished_reason="abort"[^}]*\} 2/);
  });
});

test('a client that leaves before the whole answer aborts all its choices', async () => {
  await withApi({}, async (api) => {
    const controller = new AbortController();
    const call = fetch(`${api.url}/v1/completions`, {
      method: 'POST',
      body: JSON.stringify({ ...long, n: 3, temperature: 1 }),
      signal: controller.signal,
    });
    while (api.engine.state().numRunning < 3) await sleep(2);
    controller.abort();
    await call.then(
      () => assert.unreachable(),
      (error: Error) => assert.is(error.name, 'AbortError'),
    );
    await assertWhole(api.engine);
  });
});

test('a slow reader gets everything, in fewer pieces', async () => {
  await withApi({}, async (api) => {
    const response = await fetch(`${api.url}/v1/completions`, {
      method: 'POST',
      body: JSON.stringify({ ...long, max_tokens: 200, stream: true, return_token_ids: true }),
    });
    const pieces: string[] = [];
    const decoder = new TextDecoder();
    for await (const chunk of response.body!) {
      pieces.push(decoder.decode(chunk, { stream: true }));
      if (pieces.length < 5) await sleep(20);
    }
    const chunks = parseEvents(pieces.join(''));
    assert.is(chunks.flatMap((chunk) => chunk.choices[0].token_ids).length, 200);
  });
});

test('metrics parse, and count what happened under vLLM names', async () => {
  await withApi({ role: 'decode' }, async (api) => {
    await api.post('/v1/completions', { ...long, max_tokens: 8 });
    await api.post('/v1/completions', { ...long, max_tokens: 8 });
    const samples = new Map<string, number>();
    for (const line of (await api.get('/metrics')).text.split('\n')) {
      if (line === '' || line.startsWith('#')) continue;
      const parsed = /^([a-z0-9_:]+)(\{[^}]*\})? (\S+)$/.exec(line);
      assert.ok(parsed, line);
      const [, name, labels = '', value] = parsed!;
      const kept = labels
        .replace(/(model_name|engine)="[^"]*",?/g, '')
        .replace(/[{},]+$/g, '')
        .replace('{', '');
      samples.set(kept === '' ? name! : `${name} ${kept}`, Number(value));
    }
    const numPromptTokens = api.engine.tokenizer.encode(text).length;
    const numHits = Math.floor((numPromptTokens - 1) / 16) * 16;
    const expected: Record<string, number> = {
      'vllm:num_requests_running': 0,
      'vllm:num_requests_waiting': 0,
      'vllm:kv_cache_usage_perc': 0,
      'vllm:prompt_tokens_total': 2 * numPromptTokens,
      'vllm:prompt_tokens_cached_total': numHits,
      'vllm:generation_tokens_total': 16,
      'vllm:prefix_cache_queries_total': 2 * numPromptTokens,
      'vllm:prefix_cache_hits_total': numHits,
      'vllm:prompt_tokens_by_source_total source="local_cache_hit"': numHits,
      'vllm:prompt_tokens_by_source_total source="local_compute"': 2 * numPromptTokens - numHits,
      'vllm:request_success_total finished_reason="length"': 2,
      'vllm:time_to_first_token_seconds_count': 2,
      'vllm:inter_token_latency_seconds_count': 14,
      'vllm:request_prompt_tokens_sum': 2 * numPromptTokens,
      'vllm:request_params_n_count': 2,
      'vllm:request_max_num_generation_tokens_sum': 16,
      'vllm:nixl_num_kv_expired_reqs_total': 0,
      'vllm_pd:prompt_tokens_ledger_total bin="local_hit"': numHits,
      'vllm_pd:prompt_tokens_ledger_total bin="new"': numPromptTokens,
      'vllm_pd:kv_transfer_bytes_total direction="d_to_p",op="sent"': 0,
      'vllm_pd:kv_transfer_bytes_total direction="p_to_d",op="received"': 0,
      'vllm_pd:num_free_blocks': 127,
      'vllm_pd:num_holds': 0,
    };
    for (const [name, value] of Object.entries(expected)) assert.is(samples.get(name), value, name);
  });
});

test('metrics count the answers to one prompt together when the last one has ended', async () => {
  await withApi({ role: 'decode' }, async (api) => {
    const call = { ...long, temperature: 1, seed: 1, n: 3, max_tokens: 40, ignore_eos: true };
    // Of several prompts each counts for itself.
    const { json } = await api.post('/v1/completions', { ...call, prompt: ['one two', 'three four'] });
    assert.is(json.choices.length, 6);
    const metrics = (await api.get('/metrics')).text;
    const value = (name: string) => Number(new RegExp(`^${name}\\{[^}]*\\} (\\S+)$`, 'm').exec(metrics)?.[1]);
    assert.equal(
      ['count', 'sum'].map((end) => value(`vllm:request_params_n_${end}`)),
      [2, 6],
    );
    assert.is(value('vllm:request_generation_tokens_count'), 6);
    assert.is(value('vllm:request_max_num_generation_tokens_count'), 2);
    assert.is(value('vllm:request_max_num_generation_tokens_sum'), 80);
  });
});

test('an occupied port is said, with the port', async () => {
  const other = createServer();
  await new Promise<void>((resolve) => {
    other.listen(0, '127.0.0.1', resolve);
  });
  const { port } = other.address() as { port: number };
  const engine = await startEngine();
  try {
    await startApiServer({ engine, host: '127.0.0.1', port });
    assert.unreachable();
  } catch (error) {
    assert.instance(error, VllmPdError);
    assert.is((error as VllmPdError).code, 'ADDRESS_IN_USE');
    assert.match((error as VllmPdError).message, String(port));
  } finally {
    other.close();
    await engine.shutdown();
  }
});

test('closing the server ends open streams and their requests', async () => {
  const engine = await startEngine();
  const server = await startApiServer({ engine, host: '127.0.0.1', port: 0 });
  const response = await fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    body: JSON.stringify({ ...long, stream: true }),
  });
  const reading = response.text().then(
    () => 'ended',
    () => 'cut off',
  );
  await server.close();
  assert.is(await reading, 'cut off');
  await assertWhole(engine);
  await engine.shutdown();
});

test('a request that comes while the engine shuts down is refused with 503', async () => {
  await withApi({}, async (api) => {
    await api.engine.drain();
    const reply = await api.post('/v1/completions', long);
    assert.equal([reply.status, reply.json.error.type], [503, 'ServiceUnavailableError']);
  });
});

test.run();
