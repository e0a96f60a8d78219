// P's answer to a turn whose first token it gives: the events for the client, and the hand-over behind them for D.
import { type HandOver, handOverObject } from '../../wire.js';
import type { WholeResponse } from './node.js';
import { isEventStream } from './relay.js';

export type FirstTokenAnswer =
  /** The first token was the last one: this is the client's answer, as it is. */
  | { readonly kind: 'complete' }
  /** `events`: the first token's, as the client is to get them; null in an answer that is not streamed. */
  | { readonly kind: 'begun'; readonly events: Buffer | null; readonly handOver: HandOver };

const eventEnd = Buffer.from('\n\n');
const dataPrefix = 'data: ';

/** Throws SyntaxError for what is neither. Only the hand-over is parsed. */
export function readFirstTokenAnswer(response: WholeResponse): FirstTokenAnswer {
  const { bytes } = response;
  if (!isEventStream(response)) {
    const handOver = parseHandOver(bytes);
    return handOver ? { kind: 'begun', events: null, handOver } : { kind: 'complete' };
  }
  const cut = bytes.lastIndexOf(eventEnd, bytes.length - eventEnd.length - 1);
  const begin = cut < 0 ? 0 : cut + eventEnd.length;
  const last = bytes.subarray(begin + dataPrefix.length);
  if (last.toString('utf8').trim() === '[DONE]') return { kind: 'complete' };
  const handOver = parseHandOver(last);
  if (!handOver) throw new SyntaxError('Expected a hand-over behind the events of the first token.');
  return { kind: 'begun', events: bytes.subarray(0, begin), handOver };
}

function parseHandOver(json: Buffer): HandOver | null {
  const value = JSON.parse(json.toString('utf8')) as HandOver | null;
  return value?.object === handOverObject ? value : null;
}
