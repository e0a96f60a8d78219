// A small router on node:http that refuses who has no key, and shuts down when what it has is answered.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { hasCode, messageOf, VllmPdError } from '../errors.js';
import { createLogger } from '../log.js';
import { ApiKeys } from './api-keys.js';
import { sendError } from './http-answer.js';
import { applyLimits, defaultHttpLimits, type HttpLimits, watchReader } from './http-limits.js';

const log = createLogger('http');

/** For answers that were cut short to reach their clients. */
export const lastWordsMs = 1000;

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
  try {
    return new URL(target, 'http://localhost');
  } catch (cause) {
    throw new VllmPdError('INVALID_ARGUMENT', `The request target \`${target}\` is no URL.`, { cause });
  }
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
