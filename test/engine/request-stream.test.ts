// The pieces of an answer on their way to whoever reads them, quickly, slowly or not at all.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { RequestOutput } from '../../src/engine/request-output.js';
import { RequestStream } from '../../src/engine/request-stream.js';

function piece(text: string, finishReason: RequestOutput['finishReason'] = null): RequestOutput {
  return {
    requestId: 'r',
    numPromptTokens: 1,
    text,
    tokenIds: [text.length],
    logprobs: [],
    promptLogprobs: null,
    numOutputTokens: 1,
    finishReason,
    stopReason: null,
    kvTransferParams: null,
    prefillStats: null,
  };
}

async function textsOf(stream: RequestStream): Promise<string[]> {
  const texts: string[] = [];
  for await (const { text } of stream) texts.push(text);
  return texts;
}

test('a caller that keeps up gets every piece', async () => {
  const stream = new RequestStream('r', () => assert.unreachable());
  const texts = textsOf(stream);
  for (const text of ['a', 'b']) {
    stream.push(piece(text));
    await new Promise(setImmediate);
  }
  stream.push(piece('c', 'stop'));
  assert.equal(await texts, ['a', 'b', 'c']);
});

test('a slow caller gets what came in between as one piece', async () => {
  const stream = new RequestStream('r', () => assert.unreachable());
  stream.push(piece('a'));
  stream.push(piece('bb'));
  stream.push(piece('c', 'length'));
  const { value } = await stream.next();
  assert.is(value!.text, 'abbc');
  assert.equal(value!.tokenIds, [1, 2, 1]);
  assert.is(value!.finishReason, 'length');
  assert.is((await stream.next()).done, true);
});

test('leaving the loop aborts once, and nothing comes after', async () => {
  let numAborts = 0;
  const stream = new RequestStream('r', () => numAborts++);
  stream.push(piece('a'));
  for await (const _ of stream) break;
  await stream.return();
  assert.is(numAborts, 1);
  stream.push(piece('b'));
  assert.equal(await textsOf(stream), []);
});

test('returning while somebody waits ends the wait', async () => {
  let numAborts = 0;
  const stream = new RequestStream('r', () => numAborts++);
  const waiting = stream.next();
  await stream.return();
  assert.is((await waiting).done, true);
  assert.is(numAborts, 1);
});

test('a stream that ended is not aborted by its end', async () => {
  const stream = new RequestStream('r', () => assert.unreachable());
  stream.push(piece('a', 'stop'));
  assert.equal(await textsOf(stream), ['a']);
  await stream.return();
});

test('a failure comes after the pieces before it', async () => {
  const stream = new RequestStream('r', () => assert.unreachable());
  stream.push(piece('a'));
  stream.fail(new Error('broken'));
  assert.is((await stream.next()).value!.text, 'a');
  await stream.next().then(
    () => assert.unreachable(),
    (error: Error) => assert.is(error.message, 'broken'),
  );
  assert.is((await stream.next()).done, true);
});

test.run();
