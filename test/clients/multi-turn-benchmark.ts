// What vLLM's multi-turn benchmark (benchmarks/multi_turn/benchmark_serving_multi_turn.py) sends, and how strictly it reads.
import { request } from 'undici';
import type { Message } from '../promises/by-hand.js';

export interface TurnOptions {
  readonly stream: boolean;
  /** `--send-conversation-id` */
  readonly conversationId?: string;
  /** `--limit-max-tokens`, else the length of the answer in the data set. */
  readonly maxTokens: number;
  /** Nothing of the benchmark's: what a test needs to compare answers. */
  readonly extraBody?: object;
}

export interface TurnResult {
  readonly text: string;
  readonly numChunks: number;
  /** From the first chunk with content on; null when there was none, which the benchmark counts as a failure. */
  readonly ttftMs: number | null;
  readonly latencyMs: number;
}

/** Plays one turn. Throws where the benchmark would crash or reject the answer. */
export async function playTurn(
  url: string,
  model: string,
  messages: readonly Message[],
  { stream, conversationId, maxTokens, extraBody = {} }: TurnOptions,
): Promise<TurnResult> {
  const sentAt = performance.now();
  const response = await request(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(conversationId !== undefined && { 'x-session-id': conversationId }),
    },
    body: JSON.stringify({
      model,
      messages,
      max_tokens: maxTokens,
      ...(stream && { stream: true, stream_options: { include_usage: false } }),
      ...(conversationId !== undefined && { conversation_id: conversationId }),
      ...extraBody,
    }),
  });
  if (response.statusCode !== 200) throw new Error(`${response.statusCode}: ${await response.body.text()}`);
  return stream ? readStream(response.body, sentAt) : readWhole(await response.body.text(), sentAt);
}

async function readStream(body: AsyncIterable<Buffer>, sentAt: number): Promise<TurnResult> {
  let [text, numChunks, ttftMs, latencyMs] = ['', 0, null as number | null, null as number | null];
  for await (const line of lines(body)) {
    const data = line.trim().replace(/^data: /, '');
    if (data === '') continue;
    const nowMs = performance.now() - sentAt;
    if (data === '[DONE]') {
      latencyMs = nowMs;
      continue;
    }
    // Not optional: a chunk without choices, or a choice without a delta, is a crash.
    const { content } = JSON.parse(data).choices[0].delta as { readonly content?: string | null };
    if (!content) continue;
    ttftMs ??= nowMs;
    numChunks++;
    text += content;
  }
  if (latencyMs === null) throw new Error('The stream ended without [DONE].');
  return { text, numChunks, ttftMs, latencyMs };
}

/** The whole answer must be one line. */
function readWhole(body: string, sentAt: number): TurnResult {
  const [line, ...more] = body.split('\n').filter((part) => part.trim() !== '');
  if (line === undefined || more.length > 0) throw new Error(`Expected one line but received ${body}.`);
  const { role, content } = JSON.parse(line).choices[0].message as Message;
  if (role !== 'assistant' || typeof content !== 'string') throw new Error(`No answer in ${line}.`);
  const latencyMs = performance.now() - sentAt;
  return { text: content, numChunks: 1, ttftMs: latencyMs, latencyMs };
}

async function* lines(body: AsyncIterable<Buffer>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const bytes of body) {
    const parts = (rest + decoder.decode(bytes, { stream: true })).split('\n');
    rest = parts.pop()!;
    yield* parts;
  }
  if (rest !== '') yield rest;
}

export interface ServerInfo {
  readonly version: string | null;
  readonly models: readonly { readonly id: string; readonly maxModelLen: number }[];
}

/** What it asks before it starts: `/version` may be missing, `/v1/models` may not. */
export async function readServerInfo(url: string): Promise<ServerInfo> {
  const version = await request(`${url}/version`);
  const versionBody = await version.body.text();
  const models = await request(`${url}/v1/models`);
  const { data } = (await models.body.json()) as { data: { id: string; max_model_len: number }[] };
  return {
    version: version.statusCode === 200 ? (JSON.parse(versionBody) as { version: string }).version : null,
    models: data.map(({ id, max_model_len }) => ({ id, maxModelLen: max_model_len })),
  };
}
