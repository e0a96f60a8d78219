// One node's HTTP server: vLLM's endpoints on an engine.
import type { Engine } from '../../engine/engine.js';
import { VllmPdError } from '../../errors.js';
import { packageVersion, productName } from '../../version.js';
import {
  createHttpServer,
  type HttpOptions,
  type HttpServer,
  type Route,
  type RouteContext,
} from '../http.js';
import { sendError, sendJson } from '../http-answer.js';
import type { ApiNode } from './api-node.js';
import { cacheQuery, releaseLease } from './cache-query.js';
import { chatCompletions } from './chat-completions.js';
import { completions } from './completions.js';
import { EngineMetrics } from './metrics.js';
import { PromptEncoder } from './prompt-encoder.js';
import { ReusedAnswers } from './reused-answers.js';
import { detokenize, tokenize } from './tokenize.js';

export interface ApiServerOptions {
  /** Stays the caller's: shut it down after the server. */
  readonly engine: Engine;
  readonly host: string;
  /** 0 = any free port. */
  readonly port: number;
  readonly apiKeys?: readonly string[] | undefined;
  readonly limits?: HttpOptions['limits'];
}

/** Throws ADDRESS_IN_USE when the port is taken. */
export async function startApiServer(options: ApiServerOptions): Promise<HttpServer> {
  const { engine, host, port } = options;
  const encoder = new PromptEncoder({
    tokenizer: engine.tokenizer,
    modelPath: engine.config.modelPath,
    maxTokens: engine.maxModelLen,
  });
  const { tokenizer, chatTemplate, config } = engine;
  const reusedAnswers = config.reuseTokenIds ? new ReusedAnswers(tokenizer, chatTemplate) : null;
  const node: ApiNode = { engine, encoder, reusedAnswers, created: Math.floor(Date.now() / 1000) };
  const server = await createHttpServer(routes(node), { host, port }, options);
  encoder.warmUp();
  const close = async () => {
    await server.close();
    await encoder.close();
  };
  return { ...server, close };
}

function routes(node: ApiNode): Route[] {
  const { engine } = node;
  const metrics = new EngineMetrics(engine);
  const version = packageVersion();
  const get = (path: string, handler: Route['handler']): Route => ({ method: 'GET', path, handler });
  const post = (
    path: string,
    handler: (node: ApiNode, context: RouteContext) => Promise<void> | void,
  ): Route => ({
    method: 'POST',
    path,
    handler: (context) => handler(node, context),
  });
  return [
    post('/v1/completions', completions),
    post('/v1/chat/completions', chatCompletions),
    post('/v1/cache_query', cacheQuery),
    post('/v1/cache_query/release', releaseLease),
    post('/tokenize', tokenize),
    post('/detokenize', detokenize),
    post('/reset_prefix_cache', resetPrefixCache),
    post('/ping', health),
    get('/ping', (context) => health(node, context)),
    get('/health', (context) => health(node, context)),
    get('/v1/models', ({ res }) => sendJson(res, 200, models(node))),
    get('/load', ({ res }) => sendJson(res, 200, { server_load: serverLoad(engine) })),
    get('/version', ({ res }) => sendJson(res, 200, { version })),
    get('/state', ({ res }) => sendJson(res, 200, engine.state())),
    get('/metrics', async ({ res }) => {
      const text = await metrics.registry.text();
      res.writeHead(200, { 'content-type': metrics.registry.contentType });
      res.end(text);
    }),
  ];
}

/** Tells a proxy whom it speaks to. */
const serverProduct = `${productName}/${packageVersion()}`;

/** 200 and nothing, as vLLM; 503 when the engine's loop has ended, and while the node finishes what it has. */
function health({ engine }: ApiNode, { res, isDraining }: RouteContext): void {
  if (isDraining) sendError(res, new VllmPdError('OVERLOADED', 'This node is draining.'));
  else if (engine.fatal)
    sendError(res, new VllmPdError('OVERLOADED', engine.fatal.message, { cause: engine.fatal }));
  else res.writeHead(200, { 'content-length': 0, server: serverProduct }).end();
}

/** Requests that run or wait. */
function serverLoad(engine: Engine): number {
  const { numRunning, numWaiting } = engine.state();
  return numRunning + numWaiting;
}

/** `?only_free=true` forgets the blocks that nobody uses; without it all are forgotten, or none while any is in use. */
function resetPrefixCache({ engine }: ApiNode, { res, url }: RouteContext): void {
  const onlyFree = url.searchParams.get('only_free') === 'true';
  sendJson(res, 200, { success: engine.resetPrefixCache({ onlyFree }) });
}

function models({ engine, created }: ApiNode): object {
  const { servedModelName, modelPath } = engine.config;
  const model = {
    id: servedModelName,
    object: 'model',
    created,
    owned_by: 'vllm-pd',
    root: modelPath,
    parent: null,
    max_model_len: engine.maxModelLen,
    permission: [],
  };
  return { object: 'list', data: [model] };
}
