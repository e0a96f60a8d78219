// What one client may cost a server: sizes, times, and how many of them there are.
import type { Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

export interface HttpLimits {
  readonly maxConnections: number;
  readonly maxHeaderBytes: number;
  readonly maxHeaders: number;
  /** From a connection's first byte to the end of the headers. */
  readonly headersTimeoutMs: number;
  /** To the end of the body. */
  readonly requestTimeoutMs: number;
  /** How long a client may read nothing while there is something to read. */
  readonly stalledReaderMs: number;
  /** How often the times of requests are looked at. */
  readonly checkIntervalMs: number;
}

export const defaultHttpLimits: HttpLimits = {
  maxConnections: 4096,
  maxHeaderBytes: 16 * 1024,
  maxHeaders: 100,
  headersTimeoutMs: 15_000,
  requestTimeoutMs: 120_000,
  stalledReaderMs: 60_000,
  checkIntervalMs: 5000,
};

const stalledReaderLimits = new WeakMap<Socket, number>();

/** What `createServer` cannot be told. */
export function applyLimits(server: Server, limits: HttpLimits): void {
  server.maxConnections = limits.maxConnections;
  server.maxHeadersCount = limits.maxHeaders;
  server.on('connection', (socket: Socket) => stalledReaderLimits.set(socket, limits.stalledReaderMs));
}

/**
 * From now on the connection is cut when its client takes nothing for too long: it would keep what was written for it, a
 * node's connection behind a proxy, and its own place. Progress, however little, starts the time again.
 */
export function watchReader(res: ServerResponse): void {
  const { socket } = res;
  const limitMs = socket ? stalledReaderLimits.get(socket) : undefined;
  // The server destroys a socket whose timeout nobody else handles.
  if (limitMs !== undefined) socket?.setTimeout(limitMs);
}

/** The client has read what there was. */
export function unwatchReader(res: ServerResponse): void {
  res.socket?.setTimeout(0);
}
