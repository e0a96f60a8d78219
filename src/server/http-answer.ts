// Answers: JSON, vLLM's form of an error, and clients that are slow or go away.
import type { ServerResponse } from 'node:http';
import { messageOf, VllmPdError } from '../errors.js';
import { unwatchReader, watchReader } from './http-limits.js';

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
