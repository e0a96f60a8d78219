// Server-sent events are the same wherever the stream is cut, and bytes of any kind are no error.
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { SseParser } from '../../src/bench/sse-parser.js';

const limits = { numRuns: 300, interruptAfterTimeLimit: 8000, markInterruptAsFailure: false };

function eventsOf(pieces: readonly Uint8Array[]): string[] {
  const parser = new SseParser();
  return pieces.flatMap((piece) => parser.push(piece));
}

function piecesOf(stream: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const at = [...cuts.map((cut) => cut % (stream.length + 1)), 0, stream.length].sort((a, b) => a - b);
  return at.slice(1).map((end, i) => stream.subarray(at[i], end));
}

const cuts = fc.array(fc.nat(), { maxLength: 20 });
/** Of several bytes a character, without the ends of lines. */
const line = fc.string({ unit: 'binary', maxLength: 40 }).map((text) => text.replace(/[\r\n]/g, ''));
const lineEnd = fc.constantFrom('\n', '\r\n');

test('events come out as they were sent, wherever characters, lines and events are cut', () => {
  const event = fc.array(line, { minLength: 1, maxLength: 3 });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 6 }), line, lineEnd, cuts, (events, comment, end, at) => {
      const text = events
        .map(
          (lines) => `: ${comment}${end}id: 1${end}${lines.map((it) => `data: ${it}${end}`).join('')}${end}`,
        )
        .join('');
      const sent = events.map((lines) => lines.join('\n'));
      assert.equal(eventsOf(piecesOf(Buffer.from(text), at)), sent);
    }),
    limits,
  );
});

test('bytes of any kind give the same events cut as whole', () => {
  const byte = fc.oneof(fc.nat(255), fc.constantFrom(...Buffer.from('data:\r\n\n\n \xc3')));
  fc.assert(
    fc.property(fc.array(byte, { maxLength: 200 }), cuts, (bytes, at) => {
      const stream = Uint8Array.from(bytes);
      assert.equal(eventsOf(piecesOf(stream, at)), eventsOf([stream]));
    }),
    limits,
  );
});

test.run();
