// The stream parser gives the same events however the bytes were cut.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { SseParser } from '../../src/bench/sse-parser.js';

const stream = Buffer.from(
  ': hello\n\ndata: {"a":"ä€"}\r\n\r\ndata: one\ndata: two\n\nevent: x\ndata:bare\n\ndata: [DONE]\n\n',
);
const events = ['{"a":"ä€"}', 'one\ntwo', 'bare', '[DONE]'];

test('whole streams, and streams cut at every single byte', () => {
  assert.equal(new SseParser().push(stream), events);
  for (let at = 1; at < stream.length; at++) {
    const parser = new SseParser();
    assert.equal([...parser.push(stream.subarray(0, at)), ...parser.push(stream.subarray(at))], events);
  }
  const parser = new SseParser();
  assert.equal(
    [...stream].flatMap((byte) => parser.push(Uint8Array.of(byte))),
    events,
  );
});

test('an event that is not ended by an empty line is not reported', () => {
  assert.equal(new SseParser().push(Buffer.from('data: half\n')), []);
});

test.run();
