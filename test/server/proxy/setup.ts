// A proxy in front of scripted nodes, and the answers that such nodes usually give.
import type { ServerResponse } from 'node:http';
import { type ProxyOptions, type ProxyServer, startProxy } from '../../../src/server/proxy/proxy.js';
import { json, type Script, type ScriptedNode, startScriptedNode } from './scripted-node.js';

export const handOver = {
  do_remote_prefill: true,
  do_remote_decode: false,
  remote_engine_id: 'engine-p',
  remote_request_id: 'held-by-p',
  remote_block_ids: [[1, 2]],
  remote_host: '127.0.0.1',
  remote_port: 1,
};

export const leased = {
  do_remote_prefill: false,
  do_remote_decode: true,
  remote_engine_id: 'engine-d',
  remote_request_id: 'lease-1',
  remote_block_ids: [[7, 8]],
  remote_num_tokens: 32,
  remote_host: '127.0.0.1',
  remote_port: 2,
};

export const ticket = { ...leased, remote_request_id: 'held-by-d', remote_lease_expires_in_ms: 480_000 };

export const answerBody = {
  id: 'cmpl-1',
  object: 'text_completion',
  choices: [{ index: 0, text: ' word', finish_reason: 'length' }],
};

export const events = [
  'data: {"choices":[{"text":" a"}]}\n\n',
  'data: {"choices":[{"text":" b"}]}\n\n',
  'data: [DONE]\n\n',
];

export const completions = '/v1/completions';
export const cacheQuery = '/v1/cache_query';
export const releasePath = '/v1/cache_query/release';

export const prefills: Script = {
  [completions]: (_call, res) => json(res, 200, { ...answerBody, kv_transfer_params: handOver }),
  [releasePath]: (_call, res) => json(res, 200, { success: true }),
};

export const decodes: Script = {
  [completions]: (call, res) => (call.body.stream ? streamEvents(res) : json(res, 200, answerBody)),
  [cacheQuery]: (_call, res) => json(res, 200, queryAnswer(32)),
  [releasePath]: (_call, res) => json(res, 200, { success: true }),
};

export function queryAnswer(numTokens: number) {
  const isFound = numTokens > 0;
  return {
    object: 'cache_query',
    num_prompt_tokens: 40,
    num_tokens: numTokens,
    num_blocks: numTokens / 16,
    lease: isFound ? { id: 'lease-1', expires_in_ms: 30_000 } : null,
    kv_transfer_params: isFound ? leased : null,
  };
}

export function streamEvents(res: ServerResponse, sent: readonly string[] = events): void {
  res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
  for (const event of sent) res.write(event);
  res.end();
}

export interface Setup {
  readonly proxy: ProxyServer;
  readonly prefill: readonly ScriptedNode[];
  readonly decode: readonly ScriptedNode[];
  post(path: string, body: unknown, init?: RequestInit): Promise<Response>;
}

/** Starts the nodes and the proxy, runs `work`, and closes all of them, whatever happened. */
export async function withProxy(
  scripts: { readonly prefill: readonly Script[]; readonly decode: readonly Script[] },
  options: Partial<ProxyOptions>,
  work: (setup: Setup) => Promise<void>,
): Promise<void> {
  const prefill = await Promise.all(scripts.prefill.map((script) => startScriptedNode(script)));
  const decode = await Promise.all(scripts.decode.map((script) => startScriptedNode(script)));
  const proxy = await startProxy({
    host: '127.0.0.1',
    port: 0,
    prefillUrls: prefill.map((node) => node.url),
    decodeUrls: decode.map((node) => node.url),
    mode: 'bi',
    lookup: 'query',
    ...options,
  });
  const post: Setup['post'] = (path, body, init = {}) =>
    fetch(`${proxy.url}${path}`, {
      method: 'POST',
      body: typeof body === 'string' ? body : JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
      ...init,
    });
  try {
    await work({ proxy, prefill, decode, post });
  } finally {
    await proxy.close();
    await Promise.all([...prefill, ...decode].map((node) => node.close()));
  }
}

/** Waits for what happens in the background, at most two seconds. */
export async function eventually(isTrue: () => boolean | Promise<boolean>): Promise<boolean> {
  const deadlineMs = performance.now() + 2000;
  while (!(await isTrue())) {
    if (performance.now() > deadlineMs) return false;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return true;
}
