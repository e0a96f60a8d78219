// D's answer on its way to the client: the same bytes, except that a ticket in it stays with the proxy.
import type { ServerResponse } from 'node:http';
import { VllmPdError } from '../../errors.js';
import type { KvTransferParams } from '../../wire.js';
import { drained } from '../http-answer.js';
import { SseWriter } from '../sse.js';
import type { NodeResponse, ProxyNode, WholeResponse } from './node.js';
import type { JsonObject } from './request.js';
import { streamAnswer } from './whole-answer.js';

/** Headers that belong to one connection, not to the answer. */
const hopByHop = new Set([
  'connection',
  'content-length',
  'date',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

const eventEnd = Buffer.from('\n\n');

/** Called with `kv_transfer_params` found in an answer, which are then taken out of it, and with a whole answer itself. */
export type TakeTicket = (params: KvTransferParams, answer: JsonObject | null) => void;

export function isEventStream(response: Pick<NodeResponse, 'headers'>): boolean {
  return String(response.headers['content-type'] ?? '').startsWith('text/event-stream');
}

export function relayWhole(
  res: ServerResponse,
  response: WholeResponse,
  requestId: string | null,
  takeTicket: TakeTicket | null = null,
): void {
  if (res.destroyed) return;
  const bytes = takeTicket ? withoutTicket(response.bytes, takeTicket) : response.bytes;
  res.writeHead(response.status, { ...headersOf(response, requestId), 'content-length': bytes.length });
  res.end(bytes);
}

/** A whole answer for a client that asked for a stream. */
export async function relayAsStream(
  res: ServerResponse,
  response: WholeResponse,
  requestId: string,
  takeTicket: TakeTicket | null,
  asked: JsonObject,
): Promise<void> {
  if (res.destroyed) return;
  const bytes = takeTicket ? withoutTicket(response.bytes, takeTicket) : response.bytes;
  const answer = parseObject(bytes);
  if (!answer || !Array.isArray(answer.choices)) {
    relayWhole(res, response, requestId);
    return;
  }
  res.setHeader('x-request-id', requestId);
  await streamAnswer(res, answer, asked);
}

/** Sends events of P's ahead of the stream of D's that they belong to. */
export function beginEvents(
  res: ServerResponse,
  response: Pick<NodeResponse, 'headers'>,
  requestId: string,
  events: Buffer,
): void {
  res.writeHead(200, headersOf(response, requestId));
  res.write(events);
  // Node keeps an answer's first write back until the next tick, which comes behind all that is now done for D.
  res.socket?.uncork();
}

/**
 * Passes events on as they come, whole ones only: an event that a dying node cut in two would spoil what follows it.
 * A node that dies in the middle ends the stream with an error event, as a failing node itself would: 'broken'.
 * Throws when nothing was passed on yet (NODE_UNREACHABLE) or when the client has gone (the signal's reason).
 */
export async function relayEvents(
  res: ServerResponse,
  response: NodeResponse,
  node: ProxyNode,
  requestId: string,
  signal: AbortSignal,
  takeTicket: TakeTicket | null,
): Promise<'complete' | 'broken'> {
  let hasPassedOn = false;
  try {
    let rest: Buffer = Buffer.alloc(0);
    for await (const chunk of response.body as AsyncIterable<Buffer>) {
      const bytes = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
      const cut = bytes.lastIndexOf(eventEnd);
      const end = cut < 0 ? 0 : cut + eventEnd.length;
      rest = bytes.subarray(end);
      if (end === 0) continue;
      if (!res.headersSent) res.writeHead(response.status, headersOf(response, requestId));
      const events = bytes.subarray(0, end);
      hasPassedOn = true;
      if (!res.write(takeTicket ? eventsWithoutTicket(events, takeTicket) : events)) await drained(res);
    }
    if (!res.headersSent) res.writeHead(response.status, headersOf(response, requestId));
    res.end(rest);
    return 'complete';
  } catch (error) {
    const failure = node.failure(error, signal);
    if (signal.aborted || !hasPassedOn) throw failure;
    await new SseWriter(res).fail(failure);
    return 'broken';
  }
}

/** D will not go on with what was begun: its refusal, or what became of it, as an event, then the end. */
export async function endEvents(res: ServerResponse, refusal: WholeResponse): Promise<void> {
  const sse = new SseWriter(res);
  const body = parseObject(refusal.bytes);
  if (!body?.error) {
    await sse.fail(new VllmPdError('INTERNAL', `The decode node answered ${refusal.status}.`));
    return;
  }
  await sse.write(body);
  await sse.done();
}

function headersOf(
  response: Pick<NodeResponse, 'headers'>,
  requestId: string | null,
): Record<string, string | string[]> {
  const headers: Record<string, string | string[]> = requestId === null ? {} : { 'x-request-id': requestId };
  for (const [name, value] of Object.entries(response.headers)) {
    if (value !== undefined && !hopByHop.has(name)) headers[name] = value;
  }
  return headers;
}

function eventsWithoutTicket(events: Buffer, takeTicket: TakeTicket): Buffer {
  if (!events.includes('"kv_transfer_params"')) return events;
  const kept = events
    .toString('utf8')
    .split('\n\n')
    .map((event) => {
      if (!event.startsWith('data: {')) return event;
      const data = Buffer.from(event.slice('data: '.length));
      return `data: ${withoutTicket(data, (params) => takeTicket(params, null)).toString('utf8')}`;
    });
  return Buffer.from(kept.join('\n\n'));
}

function withoutTicket(json: Buffer, takeTicket: TakeTicket): Buffer {
  if (!json.includes('"kv_transfer_params"')) return json;
  const body = parseObject(json);
  if (!body?.kv_transfer_params) return json;
  const { kv_transfer_params, ...rest } = body;
  takeTicket(kv_transfer_params as KvTransferParams, rest);
  return Buffer.from(JSON.stringify(rest));
}

function parseObject(json: Buffer): JsonObject | null {
  try {
    const value: unknown = JSON.parse(json.toString('utf8'));
    return typeof value === 'object' && value !== null ? (value as JsonObject) : null;
  } catch {
    return null;
  }
}
