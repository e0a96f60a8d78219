// vLLM nodes as scripts: they answer exactly as vLLM does, so without cache queries, ledgers or tickets in streams.
import type { ServerResponse } from 'node:http';
import { json, type RecordedCall, type Script } from '../server/proxy/scripted-node.js';

type Json = Readonly<Record<string, unknown>>;

const promptTokenIds = Array.from({ length: 40 }, (_, i) => 1000 + i);
const pieces = ['Once', ' upon', ' a', ' time'];

/** D as P sees it in the next turn, or P as D sees it in this one: NIXL's fields, and newer ones. */
function transferParams(role: 'prefill' | 'decode', numTokens: number, numCalls: number): Json {
  const isPrefill = role === 'prefill';
  return {
    do_remote_prefill: isPrefill,
    do_remote_decode: !isPrefill,
    remote_block_ids: [[3, 4, 9]],
    remote_engine_id: `2f1c4b6e-0000-4000-8000-00000000000${isPrefill ? 1 : 2}`,
    remote_request_id: `cmpl-${role}-${numCalls}-0-5f3a9c1e`,
    remote_host: 'localhost',
    remote_port: isPrefill ? 5600 : 5601,
    tp_size: 2,
    remote_num_tokens: numTokens,
    remote_blocks_expiry_time: isPrefill ? null : 12_345.678,
    transfer_mode: 'pull',
    dcp_size: 1,
    pp_size: 1,
  };
}

function wholeAnswer(call: RecordedCall, text: string, numTokens: number, params: Json | null): Json {
  const { body } = call;
  const isChat = call.path.includes('/chat/');
  const ids = body.return_token_ids ? promptTokenIds : null;
  const ending = { logprobs: null, finish_reason: 'length', stop_reason: null, token_ids: ids && [7] };
  const message = {
    role: 'assistant',
    content: text,
    refusal: null,
    annotations: null,
    audio: null,
    function_call: null,
    reasoning: null,
  };
  return {
    id: isChat ? 'chatcmpl-1' : 'cmpl-1',
    object: isChat ? 'chat.completion' : 'text_completion',
    created: 1_790_000_000,
    model: 'm',
    choices: [
      isChat
        ? { index: 0, message, ...ending, routed_experts: null }
        : { index: 0, text, ...ending, prompt_logprobs: null, prompt_token_ids: ids, routed_experts: null },
    ],
    service_tier: null,
    system_fingerprint: null,
    usage: {
      prompt_tokens: promptTokenIds.length,
      total_tokens: promptTokenIds.length + numTokens,
      completion_tokens: numTokens,
      prompt_tokens_details: null,
    },
    ...(isChat && { prompt_logprobs: null, prompt_token_ids: ids, prompt_text: null }),
    kv_transfer_params: params,
    ec_transfer_params: null,
    metrics: null,
  };
}

/** The bytes of D's stream, which nobody between it and the client may change. */
export function streamBytes(path: string, includesUsage: boolean): string {
  const isChat = path.includes('/chat/');
  const head = { id: isChat ? 'chatcmpl-1' : 'cmpl-1', created: 1_790_000_000, model: 'm' };
  const object = isChat ? 'chat.completion.chunk' : 'text_completion';
  const choices = pieces.map((text, i) => ({
    index: 0,
    ...(isChat ? { delta: { content: text } } : { text }),
    logprobs: null,
    finish_reason: i === pieces.length - 1 ? 'length' : null,
    token_ids: null,
  }));
  const role = { index: 0, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null };
  const chunks: Json[] = (isChat ? [role, ...choices] : choices).map((choice) => ({
    ...head,
    object,
    choices: [choice],
  }));
  const usage = { prompt_tokens: 40, total_tokens: 44, completion_tokens: 4 };
  if (includesUsage) chunks.push({ ...head, object, choices: [], usage });
  return [...chunks.map((chunk) => JSON.stringify(chunk)), '[DONE]']
    .map((data) => `data: ${data}\n\n`)
    .join('');
}

function refusal(
  res: ServerResponse,
  status: number,
  message: string,
  type: string,
  param: string | null,
): void {
  json(res, status, { error: { message, type, param, code: status } });
}

/** `isBidirectional`: started with `bidirectional_kv_xfer`, so that D gives out tickets. */
export function vllmNode(role: 'prefill' | 'decode', isBidirectional: boolean): Script {
  let numCalls = 0;
  const answer = (call: RecordedCall, res: ServerResponse): void => {
    const { body } = call;
    if (body.model !== 'm') {
      refusal(res, 404, `The model \`${body.model}\` does not exist.`, 'NotFoundError', 'model');
    } else if (role === 'prefill') {
      json(res, 200, wholeAnswer(call, ' x', 1, transferParams(role, promptTokenIds.length, ++numCalls)));
    } else if (body.stream) {
      const options = body.stream_options as { readonly include_usage?: boolean } | undefined;
      res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
      res.end(streamBytes(call.path, options?.include_usage ?? false));
    } else {
      const params = isBidirectional && body.kv_transfer_params ? transferParams(role, 43, ++numCalls) : null;
      json(res, 200, wholeAnswer(call, pieces.join(''), 4, params));
    }
  };
  const notFound = (_: RecordedCall, res: ServerResponse) =>
    refusal(res, 404, 'Not Found', 'Not Found', null);
  const model = { id: 'm', object: 'model', created: 1, owned_by: 'vllm', root: 'm', max_model_len: 4096 };
  return {
    '/v1/models': (_, res) => json(res, 200, { object: 'list', data: [model] }),
    '/tokenize': ({ body }, res) => {
      const tokens = String(body.prompt)
        .split(' ')
        .map(() => 1);
      json(res, 200, { count: tokens.length, max_model_len: 4096, tokens, token_strs: null });
    },
    '/metrics': (_, res) => void res.writeHead(200, { 'content-type': 'text/plain' }).end('vllm:x 1\n'),
    '/v1/completions': answer,
    '/v1/chat/completions': answer,
    '/v1/cache_query': notFound,
    '/v1/cache_query/release': notFound,
  };
}
