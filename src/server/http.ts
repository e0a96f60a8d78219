// A small router on node:http: JSON bodies with a limit, vLLM-style JSON errors, clean shutdown.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { hasCode, messageOf, VllmPdError } from '../errors.js';
import { createLogger } from '../log.js';
import { ApiKeys } from './api-keys.js';
import { BodyBudget } from './body-budget.js';
import {
  applyLimits,
  defaultHttpLimits,
  type HttpLimits,
  unwatchReader,
  watchReader,
} from './http-limits.js';
import { nestsDeeperThan } from './json-depth.js';

const log = createLogger('http');

/** Largest request body that is read, in bytes: a prompt of some million token ids. */
const defaultBodyLimitBytes = 32 * 1024 * 1024;

export interface RouteContext {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  /** Path and query of the request; its origin means nothing. */
  readonly url: URL;
  /** True once the server was told to stop: it finishes what it has. */
  readonly isDraining: boolean;
}

export interface Route {
  readonly method: 'GET' | 'POST';
  /** Matched exactly. A GET route answers HEAD too. */
  readonly path: string;
  /** May throw or reject: a VllmPdError is answered with its status, anything else with 500. */
  readonly handler: (context: RouteContext) => Promise<void> | void;
}

export interface HttpServer {
  readonly server: Server;
  readonly host: string;
  /** The port that was bound, also when 0 was asked for. */
  readonly port: number;
  readonly url: string;
  /**
   * Refuses new requests (503) from now on and resolves when those that it has are answered, after `timeoutMs` at the
   * latest. Probes are answered all the while.
   */
  drain(timeoutMs: number): Promise<void>;
  /** Ends open connections and resolves when all are gone. Idempotent. */
  close(): Promise<void>;
}

export interface HttpOptions {
  /** Of these a client must have one; none = no client needs any. */
  readonly apiKeys?: readonly string[] | undefined;
  readonly limits?: Partial<HttpLimits> | undefined;
}

/** Listens, or throws ADDRESS_IN_USE (naming the port) or INVALID_ARGUMENT (an address that is not this machine's). */
export async function createHttpServer(
  routes: readonly Route[],
  address: { readonly host: string; readonly port: number },
  options: HttpOptions = {},
): Promise<HttpServer> {
  const limits = { ...defaultHttpLimits, ...options.limits };
  const desk = new Desk(routes, new ApiKeys(options.apiKeys ?? []));
  const serverOptions = {
    keepAliveTimeout: 65_000,
    maxHeaderSize: limits.maxHeaderBytes,
    headersTimeout: limits.headersTimeoutMs,
    requestTimeout: limits.requestTimeoutMs,
    connectionsCheckingInterval: limits.checkIntervalMs,
  };
  const server = createServer(serverOptions, (req, res) => void desk.serve(req, res));
  applyLimits(server, limits);
  await listen(server, address.host, address.port);
  const { port } = server.address() as AddressInfo;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  let closed: Promise<void> | null = null;
  return {
    server,
    host: address.host,
    port,
    url: `http://${host}:${port}`,
    drain: (timeoutMs) => desk.drain(timeoutMs),
    close() {
      closed ??= new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
      return closed;
    },
  };
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause) => {
      if (hasCode(cause, 'EADDRINUSE')) {
        const suggestions = [
          'Stop the program that listens there, or choose another port (0 = any free one).',
        ];
        reject(
          new VllmPdError('ADDRESS_IN_USE', `Port ${port} on ${host} is already in use.`, {
            cause,
            suggestions,
          }),
        );
      } else {
        const message = `Cannot listen on ${host}:${port}: ${messageOf(cause)}.`;
        reject(new VllmPdError('INVALID_ARGUMENT', message, { cause, param: 'host' }));
      }
    });
    server.listen(port, host, () => {
      server.removeAllListeners('error');
      resolve();
    });
  });
}

/** Takes requests to their routes, and knows which are under way. */
class Desk {
  readonly #routes: readonly Route[];
  readonly #apiKeys: ApiKeys;
  readonly #underWay = new Set<ServerResponse>();
  #isDraining = false;
  #onIdle: () => void = () => {};

  constructor(routes: readonly Route[], apiKeys: ApiKeys) {
    this.#routes = routes;
    this.#apiKeys = apiKeys;
  }

  async serve(req: IncomingMessage, res: ServerResponse): Promise<void> {
    // What was written last waits for a client that reads, too.
    res.once('prefinish', () => {
      if (res.writableLength > 0) watchReader(res);
    });
    try {
      const url = parseUrl(req);
      this.#apiKeys.check(url.pathname, req.headers);
      const route = routeOf(this.#routes, req, url);
      if (req.method === 'POST') this.#admit(res);
      await route.handler({ req, res, url, isDraining: this.#isDraining });
    } catch (error) {
      // A client that went away is no fault of the server.
      if (
        !res.destroyed &&
        (!(error instanceof VllmPdError) || (error.status >= 500 && error.code !== 'OVERLOADED'))
      ) {
        log.error({ err: error, path: req.url }, 'request failed');
      }
      sendError(res, error);
    }
  }

  async drain(timeoutMs: number): Promise<void> {
    this.#isDraining = true;
    if (this.#underWay.size === 0) return;
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#onIdle = resolve;
      timer = setTimeout(resolve, timeoutMs);
    });
    clearTimeout(timer);
  }

  /** Throws OVERLOADED when the server is to stop. */
  #admit(res: ServerResponse): void {
    if (this.#isDraining) {
      res.setHeader('connection', 'close');
      throw new VllmPdError('OVERLOADED', 'This server is shutting down and takes no more requests.');
    }
    this.#underWay.add(res);
    res.once('close', () => {
      this.#underWay.delete(res);
      if (this.#underWay.size === 0) this.#onIdle();
    });
  }
}

function parseUrl(req: IncomingMessage): URL {
  const target = req.url ?? '/';
  if (URL.canParse(target, 'http://localhost')) return new URL(target, 'http://localhost');
  throw new VllmPdError('INVALID_ARGUMENT', `The request target \`${target}\` is no URL.`);
}

function routeOf(routes: readonly Route[], req: IncomingMessage, url: URL): Route {
  // Read once: it is put together at every reading.
  const { pathname } = url;
  const samePath = routes.filter((route) => route.path === pathname);
  if (samePath.length === 0) {
    throw new VllmPdError('NOT_FOUND', `There is no path \`${pathname}\` on this server.`);
  }
  const method = req.method === 'HEAD' ? 'GET' : req.method;
  const route = samePath.find((candidate) => candidate.method === method);
  if (route) return route;
  const methods = samePath.map((candidate) => candidate.method).join(', ');
  throw new VllmPdError(
    'METHOD_NOT_ALLOWED',
    `Expected method ${methods} for \`${pathname}\` but received ${req.method}.`,
  );
}

/** Of all requests of this process that are coming in. */
const bodyBudget = new BodyBudget(256 * 1024 * 1024);

/** Reads the whole body. A body over the limit is drained, so that the client gets to read the answer, and BODY_TOO_LARGE. */
async function readBody(req: IncomingMessage, limitBytes: number, budget: BodyBudget): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let numBytes = 0;
  let numKept = 0;
  try {
    for await (const chunk of req as AsyncIterable<Buffer>) {
      numBytes += chunk.length;
      if (numBytes <= limitBytes) {
        budget.take(chunk.length);
        numKept += chunk.length;
        chunks.push(chunk);
      } else {
        chunks.length = 0;
      }
      // Leaving the loop destroys the connection: nobody has to swallow an endless body.
      if (numBytes > 4 * limitBytes) break;
    }
  } finally {
    budget.giveBack(numKept);
  }
  if (numBytes > limitBytes) {
    const message = `Expected a request body of at most ${limitBytes} bytes but received more.`;
    throw new VllmPdError('BODY_TOO_LARGE', message);
  }
  return Buffer.concat(chunks);
}

/** Far more than any request needs; what recurses over a body stays far from the end of its stack. */
const maxJsonDepth = 100;

/** The parsed body; INVALID_ARGUMENT when it is no JSON, or lists and objects in it nest more than 100 deep. */
export async function readJson(
  req: IncomingMessage,
  limitBytes = defaultBodyLimitBytes,
  budget = bodyBudget,
): Promise<unknown> {
  const body = await readBody(req, limitBytes, budget);
  if (nestsDeeperThan(body, maxJsonDepth)) {
    const message = `Expected a JSON body nested at most ${maxJsonDepth} deep but received a deeper one.`;
    throw new VllmPdError('INVALID_ARGUMENT', message);
  }
  try {
    return JSON.parse(body.toString('utf8')) as unknown;
  } catch (cause) {
    const received = body.length === 0 ? 'an empty body' : `a body that is none: ${messageOf(cause)}`;
    throw new VllmPdError('INVALID_ARGUMENT', `Expected a JSON body but received ${received}.`, { cause });
  }
}

export function sendJson(res: ServerResponse, status: number, body: unknown): void {
  sendJsonBytes(res, status, Buffer.from(JSON.stringify(body)));
}

export function sendJsonBytes(res: ServerResponse, status: number, bytes: Buffer): void {
  if (res.destroyed || res.headersSent) return;
  res.writeHead(status, { 'content-type': 'application/json', 'content-length': bytes.length });
  res.end(bytes);
}

const draining = new WeakMap<ServerResponse, Promise<void>>();

/**
 * Resolves when the client has room for more, or is gone; one that reads nothing for too long is cut off. However many
 * wait, they wait for one event.
 */
export function drained(res: ServerResponse): Promise<void> {
  const known = draining.get(res);
  if (known) return known;
  const waiting = new Promise<void>((resolve) => {
    const settle = () => {
      draining.delete(res);
      unwatchReader(res);
      res.off('drain', settle);
      res.off('close', settle);
      resolve();
    };
    watchReader(res);
    res.once('drain', settle);
    res.once('close', settle);
  });
  draining.set(res, waiting);
  return waiting;
}

interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    /** The HTTP status. */
    readonly code: number;
  };
}

/** vLLM's JSON form of an error. */
export function errorBody(error: unknown): ErrorBody {
  if (error instanceof VllmPdError) {
    const { message, type, status } = error;
    return { error: { message, type, param: error.param ?? null, code: status } };
  }
  return { error: { message: messageOf(error), type: 'InternalServerError', param: null, code: 500 } };
}

/** A queue moves from one step to the next; a server that stops or starts takes longer. */
const retryAfterSeconds: Readonly<Record<number, number>> = { 429: 1, 503: 5 };

/** Answers with the error's status; when an answer has begun already, cuts it off so that it is not taken for complete. */
export function sendError(res: ServerResponse, error: unknown): void {
  if (res.headersSent) {
    if (!res.writableEnded) res.destroy();
    return;
  }
  const body = errorBody(error);
  const { code: status } = body.error;
  if (!res.destroyed && !res.headersSent) {
    const known = error instanceof VllmPdError ? error.retryAfterSeconds : undefined;
    const retryAfter = known ?? retryAfterSeconds[status];
    if (retryAfter !== undefined) res.setHeader('retry-after', retryAfter);
    if (status === 401) res.setHeader('www-authenticate', 'Bearer');
  }
  sendJson(res, body.error.code, body);
}

/** A signal that fires when the client goes away before the answer was complete. */
export function disconnectSignal(res: ServerResponse): AbortSignal {
  const controller = new AbortController();
  if (res.destroyed) controller.abort();
  res.once('close', () => {
    if (!res.writableFinished) controller.abort();
  });
  return controller.signal;
}
