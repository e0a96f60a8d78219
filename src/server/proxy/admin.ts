// What the proxy answers about its nodes, or passes on to all of them: nodes, cache queries, resets, health.
import type { ServerResponse } from 'node:http';
import { messageOf, VllmPdError } from '../../errors.js';
import type { Route, RouteContext } from '../http.js';
import { disconnectSignal, sendError, sendJson } from '../http-answer.js';
import { readJson } from '../http-body.js';
import type { ProxyNode, WholeResponse } from './node.js';
import { relayWhole } from './relay.js';

const nodeTimeoutMs = 5000;

export interface NodeAnswer {
  readonly role: 'prefill' | 'decode';
  readonly url: string;
  /** The node's JSON; null when it failed, or said nothing more than that it did not. */
  readonly answer: unknown;
  readonly error: string | null;
}

export function adminRoutes(nodes: readonly ProxyNode[]): Route[] {
  return [
    { method: 'GET', path: '/health', handler: (context) => sendHealth(nodes, context) },
    ...(['GET', 'POST'] as const).map(
      (method): Route => ({ method, path: '/ping', handler: (context) => sendHealth(nodes, context) }),
    ),
    { method: 'GET', path: '/nodes', handler: ({ res }) => sendNodes(nodes, res) },
    { method: 'POST', path: '/v1/cache_query', handler: (context) => queryAll(nodes, context) },
    { method: 'POST', path: '/v1/cache_query/release', handler: (context) => releaseOnAll(nodes, context) },
    { method: 'POST', path: '/reset_prefix_cache', handler: (context) => resetAll(nodes, context) },
    ...(['/v1/models', '/version'] as const).map((path) => passedOn('GET', path, nodes)),
    ...(['/tokenize', '/detokenize'] as const).map((path) => passedOn('POST', path, nodes)),
  ];
}

async function sendHealth(
  nodes: readonly ProxyNode[],
  { res, isDraining }: Pick<RouteContext, 'res' | 'isDraining'>,
): Promise<void> {
  if (isDraining) throw new VllmPdError('OVERLOADED', 'This proxy is draining.');
  await Promise.all(nodes.map((node) => node.probe()));
  const roles = new Set(nodes.map((node) => node.role));
  for (const role of roles) {
    if (nodes.some((node) => node.role === role && node.healthy)) continue;
    throw new VllmPdError('OVERLOADED', `Expected a healthy node of each role but no ${role} node answers.`);
  }
  res.writeHead(200, { 'content-length': 0 }).end();
}

async function sendNodes(nodes: readonly ProxyNode[], res: ServerResponse): Promise<void> {
  const answers = await askAll(nodes, 'GET', '/state');
  const data = answers.map(({ role, url, answer, error }, i) => ({
    role,
    url,
    healthy: nodes[i]!.healthy,
    load: nodes[i]!.load,
    state: answer,
    error,
  }));
  sendJson(res, 200, { object: 'list', data });
}

async function queryAll(nodes: readonly ProxyNode[], { req, res }: RouteContext): Promise<void> {
  const body = await readJson(req);
  const answers = await askAll(nodes, 'POST', '/v1/cache_query', body, res);
  if (res.headersSent) return;
  sendJson(res, 200, { object: 'list', data: answers });
}

async function releaseOnAll(nodes: readonly ProxyNode[], { req, res }: RouteContext): Promise<void> {
  const answers = await askAll(nodes, 'POST', '/v1/cache_query/release', await readJson(req), res);
  if (res.headersSent) return;
  const released = answers.some(({ answer }) => isTrue(answer, 'released'));
  sendJson(res, 200, { object: 'cache_query.release', released, nodes: answers });
}

async function resetAll(nodes: readonly ProxyNode[], { req, res, url }: RouteContext): Promise<void> {
  req.resume();
  const role = url.searchParams.get('role') ?? 'all';
  if (role !== 'prefill' && role !== 'decode' && role !== 'all') {
    const message = `Expected role to be prefill, decode or all but received \`${role}\`.`;
    throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'role' });
  }
  const chosen = nodes.filter((node) => role === 'all' || node.role === role);
  const forwarded = new URLSearchParams(url.searchParams);
  forwarded.delete('role');
  const answers = await askAll(chosen, 'POST', `/reset_prefix_cache?${forwarded}`, undefined, res);
  if (res.headersSent) return;
  const success = answers.every(({ answer, error }) =>
    answer === null ? error === null : isTrue(answer, 'success'),
  );
  sendJson(res, 200, { success, nodes: answers });
}

function isTrue(answer: unknown, field: string): boolean {
  return (
    typeof answer === 'object' && answer !== null && field in answer && Reflect.get(answer, field) === true
  );
}

/**
 * Asks all at once. A node that fails is reported, not thrown; but when `res` is given and a node calls the request
 * itself wrong (4xx), that is the client's answer.
 */
async function askAll(
  nodes: readonly ProxyNode[],
  method: 'GET' | 'POST',
  path: string,
  body?: unknown,
  res?: ServerResponse,
): Promise<NodeAnswer[]> {
  const signal = AbortSignal.timeout(nodeTimeoutMs);
  const responses = await Promise.all(
    nodes.map((node) =>
      node.fetch({ method, path, body, signal }).catch((error: unknown) => new Error(messageOf(error))),
    ),
  );
  const refusal = responses.find(
    (response): response is WholeResponse =>
      !(response instanceof Error) && response.status >= 400 && response.status < 500,
  );
  if (res && refusal) relayWhole(res, refusal, null);
  return responses.map((response, i) => {
    const { role, url } = nodes[i]!;
    if (response instanceof Error) return { role, url, answer: null, error: response.message };
    const text = response.bytes.toString('utf8');
    if (response.status !== 200)
      return { role, url, answer: null, error: `HTTP ${response.status}: ${text}` };
    return { role, url, ...parseAnswer(text) };
  });
}

/** vLLM's nodes say that they have reset their caches with an empty body. */
function parseAnswer(text: string): Pick<NodeAnswer, 'answer' | 'error'> {
  if (text === '') return { answer: null, error: null };
  try {
    return { answer: JSON.parse(text) as unknown, error: null };
  } catch (error) {
    return { answer: null, error: `Expected JSON but received ${text.slice(0, 200)}: ${messageOf(error)}` };
  }
}

/** All nodes would say the same: the first one that answers is asked. */
function passedOn(method: 'GET' | 'POST', path: string, nodes: readonly ProxyNode[]): Route {
  return {
    method,
    path,
    async handler({ req, res }) {
      const signal = disconnectSignal(res);
      const body = method === 'POST' ? await readJson(req) : undefined;
      let failure: unknown = new VllmPdError('NODE_UNREACHABLE', 'This proxy has no node.');
      for (const node of [...nodes].sort((a, b) => Number(b.healthy) - Number(a.healthy))) {
        try {
          relayWhole(res, await node.fetch({ method, path, body, signal }), null);
          return;
        } catch (error) {
          if (signal.aborted) return;
          failure = error;
        }
      }
      sendError(res, failure);
    },
  };
}
