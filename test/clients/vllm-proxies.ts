// vLLM's two P/D proxies, hop by hop: the bodies and headers that they send, and what they take from the answers.
import { randomUUID } from 'node:crypto';
import { request } from 'undici';
import { parseEvents } from '../server/api/setup.js';

type JsonObject = Readonly<Record<string, unknown>>;
type Path = '/v1/completions' | '/v1/chat/completions';

export interface Hop {
  readonly body: JsonObject;
  readonly answer: JsonObject;
}

export interface ProxyTurn {
  readonly prefill: Hop;
  /** Body of D's call, and D's answer: JSON, or the chunks of its stream. */
  readonly decodeBody: JsonObject;
  readonly whole: JsonObject | null;
  readonly chunks: readonly JsonObject[];
}

export interface Nodes {
  readonly prefillUrl: string;
  readonly decodeUrl: string;
}

/** `kv_transfer_params` of hop 1 when D has nothing to offer. */
export const firstHop = {
  do_remote_decode: true,
  do_remote_prefill: false,
  remote_engine_id: null,
  remote_block_ids: null,
  remote_host: null,
  remote_port: null,
} as const;

/** tests/v1/kv_connector/nixl_integration/toy_proxy_server.py: two hops, nothing kept between turns. */
export async function toyProxy(
  { prefillUrl, decodeUrl }: Nodes,
  path: Path,
  body: JsonObject,
): Promise<ProxyTurn> {
  // Sent literally when OPENAI_API_KEY is not set.
  const headers = { authorization: 'Bearer None', 'x-request-id': randomUUID() };
  const { stream_options: _, min_tokens: __, min_completion_tokens: ___, ...rest } = body;
  const prefillBody = {
    ...rest,
    kv_transfer_params: firstHop,
    stream: false,
    max_tokens: 1,
    ...('max_completion_tokens' in body && { max_completion_tokens: 1 }),
  };
  const answer = await postJson(prefillUrl + path, prefillBody, headers);
  const params = answer.kv_transfer_params;
  const decodeBody = params ? { ...body, kv_transfer_params: params } : body;
  return { prefill: { body: prefillBody, answer }, ...(await decode(decodeUrl + path, decodeBody, headers)) };
}

/** examples/disaggregated/disaggregated_serving/disagg_proxy_multiturn.py: D's ticket of a turn goes to P in the next. */
export class MultiTurnProxy {
  readonly #nodes: Nodes;
  readonly #tickets = new Map<string, JsonObject>();

  constructor(nodes: Nodes) {
    this.#nodes = nodes;
  }

  get numTickets(): number {
    return this.#tickets.size;
  }

  async turn(path: Path, body: JsonObject): Promise<ProxyTurn> {
    const { prefillUrl, decodeUrl } = this.#nodes;
    const headers = { 'x-request-id': randomUUID() };
    const { conversation_id: conversationId = '', ...request } = body as JsonObject & {
      conversation_id?: string;
    };
    const ticket = this.#tickets.get(conversationId);
    this.#tickets.delete(conversationId);
    const params = ticket ? { ...ticket, do_remote_decode: true, do_remote_prefill: false } : firstHop;
    const { max_completion_tokens: _, min_tokens: __, stream_options: ___, ...rest } = request;
    const prefillBody = { ...rest, kv_transfer_params: params, stream: false, max_tokens: 1 };
    const answer = await postJson(prefillUrl + path, prefillBody, headers);
    const handOver = answer.kv_transfer_params as JsonObject | null;
    const decodeBody = {
      ...request,
      kv_transfer_params: handOver ? { ...handOver, remote_host: hostOf(prefillUrl) } : params,
      stream: true,
    };
    const turn = await decode(decodeUrl + path, decodeBody, headers);
    for (const chunk of turn.chunks) {
      readText(chunk);
      const granted = chunk.kv_transfer_params as JsonObject | undefined;
      if (!granted || conversationId === '') continue;
      this.#tickets.set(conversationId, { ...granted, remote_host: hostOf(decodeUrl) });
    }
    return { prefill: { body: prefillBody, answer }, ...turn };
  }
}

/** How the multi-turn proxy puts an answer together for a client that does not stream: null anywhere is a crash. */
export function readText(chunk: JsonObject): string {
  const choices = (chunk.choices ?? []) as readonly {
    readonly text?: string;
    readonly delta?: { content?: string };
  }[];
  return choices
    .map(({ text = '', delta = {} }) => {
      const { content = '' } = delta;
      if (typeof text !== 'string' || typeof content !== 'string') throw new Error(JSON.stringify(chunk));
      return text + content;
    })
    .join('');
}

async function decode(
  url: string,
  decodeBody: JsonObject,
  headers: Readonly<Record<string, string>>,
): Promise<Omit<ProxyTurn, 'prefill'>> {
  if (!decodeBody.stream) {
    return { decodeBody, whole: await postJson(url, decodeBody, headers), chunks: [] };
  }
  const text = await postText(url, decodeBody, headers);
  return { decodeBody, whole: null, chunks: parseEvents(text) };
}

async function postText(
  url: string,
  body: JsonObject,
  headers: Readonly<Record<string, string>>,
): Promise<string> {
  const response = await request(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });
  const text = await response.body.text();
  if (response.statusCode >= 300) throw new Error(`${url} answered ${response.statusCode}: ${text}`);
  return text;
}

async function postJson(...call: Parameters<typeof postText>): Promise<JsonObject> {
  return JSON.parse(await postText(...call)) as JsonObject;
}

function hostOf(url: string): string {
  return new URL(url).hostname;
}
