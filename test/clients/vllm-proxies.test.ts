// vLLM's own proxies in front of this project's nodes: every hop is answered as they expect, and the KV really moves.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KvTransferParams } from '../../src/wire.js';
import { shareCluster } from './shared-cluster.js';
import { firstHop, MultiTurnProxy, type Nodes, type ProxyTurn, readText, toyProxy } from './vllm-proxies.js';

// vLLM keeps D's blocks for 480 s after a turn; these are gone before the test ends.
const cluster = shareCluster(test, {
  engine: { kvTransfer: { mode: 'bi', lookup: 'ticket', decoderKvBlocksTtlMs: 3000 } },
});

const chat = '/v1/chat/completions';
const completions = '/v1/completions';
const prompt = 'once upon a time there was a king who had three sons and a castle on the hill by the sea';
const messages = [{ role: 'user', content: prompt }];
const greedy = { model: 'tiny', temperature: 0, ignore_eos: true };

function nodes(): Nodes {
  return { prefillUrl: cluster().prefill[0]!.url, decodeUrl: cluster().decode[0]!.url };
}

/** Tokens that a node has pulled from its peer since it started. */
async function pulledTokens(url: string): Promise<number> {
  const metrics = await (await fetch(`${url}/metrics`)).text();
  return Number(/^vllm:external_prefix_cache_hits_total\{[^}]*\} (\d+)$/m.exec(metrics)![1]);
}

function textOf({ whole, chunks }: ProxyTurn): string {
  if (!whole) return chunks.map(readText).join('');
  const [choice] = whole.choices as [{ readonly text?: string; readonly message?: { content: string } }];
  return choice.text ?? choice.message!.content;
}

/** The same request without any hand-over. */
async function aggregated(path: string, body: object): Promise<string> {
  const response = await cluster().post(path, body, cluster().decode[0]!.url);
  const { choices } = (await response.json()) as {
    choices: [{ text?: string; message?: { content: string } }];
  };
  return choices[0].text ?? choices[0].message!.content;
}

/** The fields that vLLM's nodes put into an answer, by their type there. */
function assertVllmParams(value: unknown, direction: 'p_to_d' | 'd_to_p'): KvTransferParams {
  const params = value as KvTransferParams;
  const isHandOver = direction === 'p_to_d';
  assert.is(params.do_remote_prefill, isHandOver);
  assert.is(params.do_remote_decode, !isHandOver);
  assert.is(params.remote_block_ids!.length, 1);
  assert.ok(params.remote_block_ids![0]!.every(Number.isInteger));
  for (const field of ['remote_engine_id', 'remote_request_id', 'remote_host'] as const) {
    assert.type(params[field], 'string');
  }
  for (const field of ['remote_port', 'tp_size', 'remote_num_tokens'] as const) {
    assert.ok(Number.isInteger(params[field]), field);
  }
  assert.ok('remote_blocks_expiry_time' in params);
  assert.is(params.remote_blocks_expiry_time === null, isHandOver);
  assert.is(params.transfer_mode, 'pull');
  return params;
}

test('the toy proxy: both hops, on both endpoints, streamed and not', async () => {
  const calls = [
    { path: completions, body: { ...greedy, prompt, max_tokens: 16 } },
    { path: chat, body: { ...greedy, messages, max_tokens: 16, min_tokens: 16 } },
    { path: chat, body: { ...greedy, messages, max_completion_tokens: 16 } },
  ] as const;
  for (const { path, body } of calls) {
    const expected = await aggregated(path, body);
    const pulledBefore = await pulledTokens(nodes().decodeUrl);
    for (const stream of [false, true]) {
      const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
      const turn = await toyProxy(nodes(), path, stream ? streamed : body);
      assert.is(textOf(turn), expected);
      const { answer } = turn.prefill;
      const params = assertVllmParams(answer.kv_transfer_params, 'p_to_d');
      const usage = answer.usage as { readonly prompt_tokens: number; readonly completion_tokens: number };
      assert.is(usage.completion_tokens, 1);
      assert.is(params.remote_num_tokens, usage.prompt_tokens);
      if (stream) assert.is((turn.chunks.at(-1)!.usage as typeof usage).prompt_tokens, usage.prompt_tokens);
    }
    // The aggregated call left D most of the prompt; what its last block lacks comes from P.
    assert.ok((await pulledTokens(nodes().decodeUrl)) > pulledBefore);
  }
});

test("the toy proxy: parameters without this project's additions, and with newer fields of vLLM's, hand over too", async () => {
  const { prefillUrl, decodeUrl } = nodes();
  const ours = ['remote_prefill_stats', 'remote_lease_expires_in_ms', 'remote_prefill_cached_tokens'];
  for (const additions of [
    {},
    { dcp_size: 1, pp_size: 1, remote_prefill_cached_tokens: 3, other: { a: [1] } },
  ]) {
    const body = { ...greedy, prompt: `${JSON.stringify(additions)} ${prompt}`, max_tokens: 8 };
    const hop = { ...body, max_tokens: 1, stream: false, kv_transfer_params: firstHop };
    const prefilled = await (await cluster().post(completions, hop, prefillUrl)).json();
    const { kv_transfer_params } = prefilled as { kv_transfer_params: Record<string, unknown> };
    const params = Object.fromEntries(
      Object.entries(kv_transfer_params).filter(([key]) => !ours.includes(key)),
    );
    const pulledBefore = await pulledTokens(decodeUrl);
    const call = { ...body, kv_transfer_params: { ...params, ...additions }, return_prefill_stats: true };
    const response = await cluster().post(completions, call, decodeUrl);
    const answer = (await response.json()) as {
      usage: { prompt_tokens: number; prompt_tokens_details: { cached_tokens: number } };
      prefill_stats: { num_decode_computed_tokens: number } | null;
    };
    assert.is(response.status, 200);
    assert.is((await pulledTokens(decodeUrl)) - pulledBefore, answer.usage.prompt_tokens);
    if (answer.prefill_stats) assert.is(answer.prefill_stats.num_decode_computed_tokens, 1);
    // No node of this key has said so: a count that somebody made up is not repeated.
    if ('dcp_size' in additions) assert.is(answer.usage.prompt_tokens_details.cached_tokens, 0);
  }
});

for (const stream of [true, false]) {
  test(`the multi-turn proxy: D's ticket of one turn is P's offer in the next, ${stream ? 'streamed' : 'whole'}`, async () => {
    const proxy = new MultiTurnProxy(nodes());
    const history: { role: string; content: string }[] = [];
    const conversation_id = `CONV_ID_${stream}`;
    const pulled: number[] = [];
    for (const content of [`${prompt} ${stream}`, 'and then what did the people of the sea say', 'go on']) {
      history.push({ role: 'user', content });
      const body = { ...greedy, messages: history, max_tokens: 40, stream, conversation_id };
      const pulledBefore = await pulledTokens(nodes().prefillUrl);
      const turn = await proxy.turn(chat, body);
      pulled.push((await pulledTokens(nodes().prefillUrl)) - pulledBefore);

      const offered = turn.prefill.body.kv_transfer_params as KvTransferParams;
      if (history.length === 1) assert.equal(offered, firstHop);
      else assertVllmParams(offered, 'd_to_p');
      assert.not('conversation_id' in turn.prefill.body);
      assertVllmParams(turn.decodeBody.kv_transfer_params, 'p_to_d');
      const tickets = turn.chunks.filter((chunk) => chunk.kv_transfer_params);
      assert.is(tickets.length, 1);
      assert.is(proxy.numTickets, 1);

      const answer = textOf(turn);
      assert.is(answer, await aggregated(chat, { ...body, stream: false }));
      history.push({ role: 'assistant', content: answer });
    }
    const [first, ...later] = pulled;
    assert.is(first, 0);
    // Each answer of 40 tokens begins two or three blocks that P lacks.
    for (const numTokens of later) assert.ok(numTokens >= 32, String(pulled));
  });
}

test('the multi-turn proxy: without a conversation id every turn is a miss, and still right', async () => {
  const proxy = new MultiTurnProxy(nodes());
  const body = {
    ...greedy,
    messages,
    max_tokens: 12,
    stream: true,
    stream_options: { include_usage: false },
  };
  for (let i = 0; i < 2; i++) {
    const turn = await proxy.turn(chat, body);
    assert.equal(turn.prefill.body.kv_transfer_params, firstHop);
    assert.is(textOf(turn), await aggregated(chat, { ...body, stream: false, stream_options: null }));
  }
  assert.is(proxy.numTickets, 0);
});

test.run();
