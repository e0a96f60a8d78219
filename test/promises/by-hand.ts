// The proxy's part played by hand, hop by hop, so that a test can act between two hops of one turn.
import { request } from 'undici';
import type { CacheQueryAnswer, KvTransferParams, PrefillStats } from '../../src/wire.js';

export interface Message {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface Answer {
  readonly text: string;
  readonly stats: PrefillStats;
}

interface ChatBody {
  readonly choices: readonly [{ readonly message: { readonly content: string } }];
  readonly kv_transfer_params: KvTransferParams | null;
  readonly prefill_stats: PrefillStats;
}

/** POSTs JSON and expects 200. */
export async function post<T>(url: string, path: string, body: unknown): Promise<T> {
  const response = await request(`${url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  const text = await response.body.text();
  if (response.statusCode !== 200) throw new Error(`${path} answered ${response.statusCode}: ${text}`);
  return JSON.parse(text) as T;
}

/** Greedy, and exactly `numTokens` long. */
export function chat(messages: readonly Message[], numTokens: number, sessionId?: string) {
  return {
    messages,
    max_tokens: numTokens,
    min_tokens: numTokens,
    ignore_eos: true,
    temperature: 0,
    return_prefill_stats: true,
    ...(sessionId === undefined ? {} : { session_id: sessionId }),
  };
}

export type ChatRequest = ReturnType<typeof chat>;

export async function complete(url: string, body: ChatRequest): Promise<Answer> {
  const answer = await post<ChatBody>(url, '/v1/chat/completions', body);
  return { text: answer.choices[0].message.content, stats: answer.prefill_stats };
}

export function query(decodeUrl: string, body: ChatRequest, lease: boolean): Promise<CacheQueryAnswer> {
  return post(decodeUrl, '/v1/cache_query', { messages: body.messages, lease });
}

/** What P leaves for D. `offer` is what a query or a ticket told about D. */
export async function prefill(
  prefillUrl: string,
  body: ChatRequest,
  offer: KvTransferParams | null,
): Promise<KvTransferParams> {
  const { min_tokens: _, ...rest } = body;
  const hop = { ...rest, max_tokens: 1, kv_transfer_params: offer ?? { do_remote_decode: true } };
  const answer = await post<ChatBody>(prefillUrl, '/v1/chat/completions', hop);
  if (!answer.kv_transfer_params) throw new Error('P left nothing for D');
  return answer.kv_transfer_params;
}

export async function decode(
  decodeUrl: string,
  body: ChatRequest,
  handOver: KvTransferParams,
): Promise<Answer> {
  const answer = await post<ChatBody>(decodeUrl, '/v1/chat/completions', {
    ...body,
    kv_transfer_params: handOver,
  });
  return { text: answer.choices[0].message.content, stats: answer.prefill_stats };
}
