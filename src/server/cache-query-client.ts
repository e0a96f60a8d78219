// Asks a running proxy or node which blocks of a prompt are held where.
import { request } from 'undici';
import { messageOf, VllmPdError } from '../errors.js';
import type { CacheQueryAnswer } from '../wire.js';

/** One row: a node's answer, or why there is none. */
export interface NodeRow {
  readonly url: string;
  /** Null when one node was asked directly: it does not say. */
  readonly role: string | null;
  readonly answer: CacheQueryAnswer | null;
  readonly error: string | null;
}

/**
 * Asks a proxy, which answers with a row for each of its nodes, or a single node. `body`: as POST /v1/cache_query takes it.
 * Throws NODE_UNREACHABLE when nothing of ours answers there, INVALID_ARGUMENT when the prompt is refused.
 */
export async function queryCaches(
  url: string,
  body: object,
  apiKey: string | null = null,
): Promise<readonly NodeRow[]> {
  if (!URL.canParse(url) || new URL(url).protocol !== 'http:') {
    const message = `Expected --url to be an address such as http://127.0.0.1:8000 but received \`${url}\`.`;
    throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'url' });
  }
  const { status, text } = await post(new URL('/v1/cache_query', url), body, apiKey);
  const answer = parse(text);
  if (status !== 200) throw refusal(url, status, answer);
  if (isObject(answer) && Array.isArray(answer.data)) return answer.data as NodeRow[];
  if (isObject(answer) && answer.object === 'cache_query') {
    return [{ url, role: null, answer: answer as unknown as CacheQueryAnswer, error: null }];
  }
  throw new VllmPdError('NODE_UNREACHABLE', `What answers at ${url} is no vllm-pd server.`);
}

async function post(
  url: URL,
  body: object,
  apiKey: string | null,
): Promise<{ readonly status: number; readonly text: string }> {
  try {
    const response = await request(url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(apiKey === null ? {} : { authorization: `Bearer ${apiKey}` }),
      },
      body: JSON.stringify(body),
      headersTimeout: 30_000,
    });
    return { status: response.statusCode, text: await response.body.text() };
  } catch (cause) {
    const suggestions = ['Start one with `vllm-pd serve`, or name another address with --url.'];
    const message = `No server answers at ${url.origin}: ${messageOf(cause)}.`;
    throw new VllmPdError('NODE_UNREACHABLE', message, { cause, suggestions });
  }
}

/** The server's own sentence, with the code that fits its status. */
function refusal(url: string, status: number, answer: unknown): VllmPdError {
  const error = isObject(answer) && isObject(answer.error) ? answer.error : null;
  if (!error)
    return new VllmPdError(
      'NODE_UNREACHABLE',
      `What answers at ${url} (HTTP ${status}) is no vllm-pd server.`,
    );
  if (status === 401) {
    throw new VllmPdError('UNAUTHORIZED', String(error.message), {
      suggestions: ['Set VLLM_PD_API_KEY to a key of that server.'],
    });
  }
  const code = status < 500 ? 'INVALID_ARGUMENT' : 'NODE_UNREACHABLE';
  return new VllmPdError(code, String(error.message));
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
