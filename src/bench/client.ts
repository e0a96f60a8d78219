// A client of the proxy's HTTP API: one chat turn streamed and timed, and the few other endpoints a benchmark needs.
import { type Dispatcher, Pool } from 'undici';
import { messageOf, VllmPdError } from '../errors.js';
import { AnswerCollector, type ChatAnswer } from './chat-answer.js';
import { SseParser } from './sse-parser.js';

export interface ChatMessage {
  /** Whatever the chat template knows: system, user, assistant, tool. */
  readonly role: string;
  readonly content: string;
}

export interface ChatRequest {
  readonly model: string;
  /** Null = of no conversation. */
  readonly conversationId: string | null;
  readonly messages: readonly ChatMessage[];
  /** The answer has exactly this many tokens. */
  readonly numOutputTokens: number;
  readonly temperature: number;
  readonly topP?: number | undefined;
  readonly topK?: number | undefined;
  readonly seed?: number | undefined;
}

export interface ClientOptions {
  /** Limit of one request, from sending to the end of the answer, in ms. */
  readonly timeoutMs: number;
  readonly connections?: number;
  /** Aborts every request under way. */
  readonly signal?: AbortSignal | undefined;
  /** Default: what VLLM_PD_API_KEY holds, its first one. */
  readonly apiKey?: string | undefined;
}

export class BenchClient {
  readonly url: string;
  readonly #pool: Pool;
  readonly #basePath: string;
  readonly #options: ClientOptions;
  readonly #ownHeaders: Readonly<Record<string, string>>;

  /** INVALID_ARGUMENT when `url` is no http address. */
  constructor(url: string, options: ClientOptions) {
    const parsed = parseHttpUrl(url);
    const apiKey = options.apiKey ?? process.env.VLLM_PD_API_KEY?.split(',')[0];
    this.#ownHeaders = apiKey ? { authorization: `Bearer ${apiKey}` } : {};
    this.url = parsed.href.replace(/\/$/, '');
    this.#basePath = parsed.pathname.replace(/\/$/, '');
    this.#options = options;
    // The client's own limit covers a whole request; undici's limits between bytes would only cut it short.
    this.#pool = new Pool(parsed.origin, {
      connections: options.connections ?? 16,
      headersTimeout: 0,
      bodyTimeout: 0,
    });
  }

  async close(): Promise<void> {
    await this.#pool.destroy();
  }

  /** Plays one turn. Rejects with the server's sentence when it refuses or breaks off. */
  async chat(request: ChatRequest): Promise<ChatAnswer> {
    const body = {
      model: request.model,
      messages: request.messages,
      stream: true,
      stream_options: { include_usage: true },
      temperature: request.temperature,
      top_p: request.topP,
      top_k: request.topK,
      seed: request.seed,
      max_tokens: request.numOutputTokens,
      min_tokens: request.numOutputTokens,
      ignore_eos: true,
      return_token_ids: true,
      return_prefill_stats: true,
      conversation_id: request.conversationId ?? undefined,
    };
    const sentAt = performance.now();
    const { conversationId } = request;
    const headers: Record<string, string> = conversationId === null ? {} : { 'x-session-id': conversationId };
    const response = await this.#request('POST', '/v1/chat/completions', body, headers);
    const collector = new AnswerCollector(sentAt);
    try {
      const parser = new SseParser();
      for await (const bytes of response.body) {
        for (const data of parser.push(bytes as Buffer)) collector.add(data);
      }
    } catch (error) {
      throw this.#explain(error, '/v1/chat/completions');
    }
    return collector.answer(this.url);
  }

  /** Names of the served models; the first one is the base model. */
  async modelIds(): Promise<string[]> {
    const answer = await this.#json('GET', '/v1/models');
    const { data } = answer as { data?: { id: string }[] };
    return (data ?? []).map(({ id }) => id);
  }

  /** Number of tokens of a bare text, without special tokens. */
  async countTokens(text: string): Promise<number> {
    const answer = await this.#json('POST', '/tokenize', { prompt: text, add_special_tokens: false });
    const { count } = answer as { count?: unknown };
    if (typeof count === 'number') return count;
    throw new VllmPdError('INTERNAL', `Expected a token count from ${this.url}/tokenize.`);
  }

  /** Drops the cached blocks of the prefill nodes that nothing uses at the moment. */
  async resetPrefillCache(): Promise<void> {
    await this.#json('POST', '/reset_prefix_cache?role=prefill&only_free=true');
  }

  /** GET of a JSON endpoint. */
  async getJson(path: string): Promise<unknown> {
    return this.#json('GET', path);
  }

  /** GET of a text endpoint. */
  async getText(path: string): Promise<string> {
    const response = await this.#request('GET', path);
    return response.body.text();
  }

  async #json(method: 'GET' | 'POST', path: string, body?: unknown): Promise<unknown> {
    const response = await this.#request(method, path, body);
    try {
      return await response.body.json();
    } catch (error) {
      throw this.#explain(error, path);
    }
  }

  async #request(
    method: 'GET' | 'POST',
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<Dispatcher.ResponseData> {
    let response: Dispatcher.ResponseData;
    try {
      response = await this.#pool.request({
        method,
        path: this.#basePath + path,
        headers: {
          ...this.#ownHeaders,
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
        body: body === undefined ? null : JSON.stringify(body),
        signal: this.#signal(),
      });
    } catch (error) {
      throw this.#explain(error, path);
    }
    if (response.statusCode === 200) return response;
    throw await refusal(response, `${this.url}${path}`);
  }

  #signal(): AbortSignal {
    const timeout = AbortSignal.timeout(this.#options.timeoutMs);
    const { signal } = this.#options;
    return signal ? AbortSignal.any([signal, timeout]) : timeout;
  }

  /** The sentence for whatever undici threw. */
  #explain(error: unknown, path: string): VllmPdError {
    if (error instanceof VllmPdError) return error;
    if (this.#options.signal?.aborted) return new VllmPdError('INTERNAL', 'Interrupted.', { cause: error });
    if (error instanceof Error && error.name === 'TimeoutError') {
      const seconds = this.#options.timeoutMs / 1000;
      return new VllmPdError('TIMED_OUT', `${this.url}${path} did not finish within ${seconds} s.`, {
        cause: error,
      });
    }
    return new VllmPdError('NODE_UNREACHABLE', `Cannot reach ${this.url}${path}: ${messageOf(error)}.`, {
      cause: error,
      suggestions: ['`vllm-pd serve` starts a proxy to measure.'],
    });
  }
}

function parseHttpUrl(url: string): URL {
  const parsed = URL.canParse(url) ? new URL(url) : null;
  if (parsed?.protocol === 'http:' || parsed?.protocol === 'https:') return parsed;
  throw new VllmPdError(
    'INVALID_ARGUMENT',
    `Expected a URL such as http://127.0.0.1:8000 but received '${url}'.`,
    {
      param: 'url',
    },
  );
}

async function refusal(response: Dispatcher.ResponseData, url: string): Promise<VllmPdError> {
  const text = await response.body.text().catch(() => '');
  const status = response.statusCode;
  const sentence = `${url} answered ${status}: ${errorMessage(text)}`;
  if (status === 400) return new VllmPdError('INVALID_ARGUMENT', sentence);
  if (status === 401) {
    const suggestions = ['Set VLLM_PD_API_KEY to a key of that server.'];
    return new VllmPdError('UNAUTHORIZED', sentence, { suggestions });
  }
  if (status === 404) return new VllmPdError('NOT_FOUND', sentence);
  if (status === 502 || status === 503) return new VllmPdError('NODE_UNREACHABLE', sentence);
  return new VllmPdError('INTERNAL', sentence);
}

function errorMessage(body: string): string {
  try {
    const { error } = JSON.parse(body) as { error?: { message?: string } };
    if (error?.message) return error.message;
  } catch {
    // not JSON: shown as it is
  }
  return body.slice(0, 200) || 'no message.';
}
