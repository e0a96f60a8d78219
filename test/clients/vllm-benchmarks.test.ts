// vLLM's two benchmark clients against a running cluster: what they parse, and that what they time is the first token.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Message } from '../promises/by-hand.js';
import { benchChat, benchCompletions } from './bench-serve.js';
import { playTurn, readServerInfo } from './multi-turn-benchmark.js';
import { shareCluster } from './shared-cluster.js';

const cluster = shareCluster(test);
const model = 'tiny';
const opening = 'once upon a time there was a king who had three sons and a castle on the hill';

function longPrompt(numTokens: number): number[] {
  return Array.from({ length: numTokens }, (_, i) => 300 + ((7 * i) % 150));
}

test('the multi-turn benchmark finds the version and the models with their context', async () => {
  for (const { url } of [{ url: cluster().proxyUrl }, ...cluster().nodes]) {
    const { version, models } = await readServerInfo(url);
    assert.match(version!, /^\d+\.\d+\.\d+/);
    assert.equal(
      models.map(({ id }) => id),
      [model],
    );
    assert.ok(models[0]!.maxModelLen > 1000);
  }
});

test('the multi-turn benchmark plays conversations, with and without streams and conversation ids', async () => {
  const texts: string[][] = [];
  for (const [index, conversationId] of [undefined, 'CONV_ID_0', 'CONV_ID_1'].entries()) {
    const messages: Message[] = [];
    for (const content of [opening, 'and then', 'what did the people say']) {
      messages.push({ role: 'user', content });
      const { text, numChunks, ttftMs, latencyMs } = await playTurn(cluster().proxyUrl, model, messages, {
        stream: index < 2,
        maxTokens: 24,
        extraBody: { temperature: 0 },
        ...(conversationId !== undefined && { conversationId }),
      });
      // An answer without content counts as a failed request.
      assert.ok(text.length > 0 && ttftMs !== null && ttftMs <= latencyMs);
      assert.ok(index === 2 || numChunks > 1);
      // The server's own answer becomes the history.
      messages.push({ role: 'assistant', content: text });
    }
    texts.push(messages.map(({ content }) => content));
  }
  assert.equal(texts[1], texts[0]);
  assert.equal(texts[2], texts[0]);
});

test('bench serve reads text, counts and success of both backends', async () => {
  const call = { url: cluster().proxyUrl, model, outputLen: 20, ignoreEos: true };
  for (const bench of [benchCompletions, benchChat]) {
    const { generatedText, outputTokens, promptLen, itlsMs, chunks } = await bench({
      ...call,
      prompt: opening,
      requestId: 'bench-1',
    });
    assert.ok(generatedText.length > 20);
    assert.is(outputTokens, 20);
    assert.ok(promptLen! > 10);
    assert.is(itlsMs.length, chunks.length - 1);
    assert.is(chunks.at(-1)!.choices![0]!.finish_reason, 'length');
  }
  const withLogprobs = await benchCompletions({ ...call, prompt: longPrompt(40), logprobs: 2 });
  assert.equal([withLogprobs.promptLen, withLogprobs.outputTokens], [40, 20]);
});

test('bench serve takes no chunk for the first token before there is one', async () => {
  const prompt = longPrompt(3000);
  const call = { url: cluster().proxyUrl, model, outputLen: 8, ignoreEos: true };
  const text = await benchCompletions({ ...call, prompt });
  const words = text.generatedText.repeat(40);
  const chat = await benchChat({ ...call, prompt: `${words} ${words}` });
  assert.equal(chat.chunks[0]!.choices![0]!.delta, { role: 'assistant', content: '' });
  // The role alone would come at once, and what follows it only after the whole prefill.
  assert.ok(chat.itlsMs[0]! < chat.ttftMs / 4, `${chat.itlsMs[0]} ms after ${chat.ttftMs} ms`);
});

test.run();
