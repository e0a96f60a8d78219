// The client against a scripted server: what it sends, what it measures, how it fails.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BenchClient, type ChatRequest, type ClientOptions } from '../../src/bench/client.js';
import type { VllmPdError } from '../../src/errors.js';
import { contentChunk, event, type Script, sleep, withServer } from './scripted-server.js';

const request: ChatRequest = {
  model: 'm',
  conversationId: 'c1',
  messages: [{ role: 'user', content: 'hello' }],
  numOutputTokens: 3,
  temperature: 0,
};

const stats = { num_prompt_tokens: 4 };
const usage = { prompt_tokens: 4, completion_tokens: 3, total_tokens: 7 };

async function withClient(
  script: Script,
  run: (client: BenchClient) => Promise<void>,
  options: Partial<ClientOptions> = {},
): Promise<void> {
  await withServer(script, async (url) => {
    const client = new BenchClient(url, { timeoutMs: 5000, ...options });
    try {
      await run(client);
    } finally {
      await client.close();
    }
  });
}

async function chatFailure(script: Script, options: Partial<ClientOptions> = {}): Promise<VllmPdError> {
  let failure: unknown = null;
  await withClient(
    script,
    async (client) => {
      failure = await client.chat(request).then(
        () => null,
        (error: unknown) => error,
      );
    },
    options,
  );
  assert.ok(failure, 'it was answered');
  return failure as VllmPdError;
}

test('a streamed answer is put together and timed from the first non-empty content', async () => {
  let seen: Record<string, unknown> = {};
  let header: unknown;
  await withClient(
    async (req, res, body) => {
      seen = JSON.parse(body) as Record<string, unknown>;
      header = req.headers['x-session-id'];
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      const role = {
        choices: [{ delta: { role: 'assistant', content: '' }, prompt_token_ids: [1, 2, 3, 4] }],
      };
      res.write(event(role));
      await sleep(60);
      const bytes = Buffer.from(event(contentChunk(' fü', [5])));
      res.write(bytes.subarray(0, 40));
      await sleep(5);
      res.write(bytes.subarray(40));
      await sleep(60);
      res.write(event(contentChunk(' bar baz', [6, 7])));
      await sleep(400);
      res.write(event({ choices: [], usage, prefill_stats: stats }));
      res.end(event('[DONE]'));
    },
    async (client) => {
      const askedAt = performance.now();
      const answer = await client.chat(request);
      const tookMs = performance.now() - askedAt;
      assert.is(answer.text, ' fü bar baz');
      assert.equal(answer.promptTokenIds, [1, 2, 3, 4]);
      assert.equal(answer.outputTokenIds, [5, 6, 7]);
      assert.is(answer.numPromptTokens, 4);
      assert.is(answer.numOutputTokens, 3);
      assert.equal(answer.prefillStats, stats);
      assert.ok(answer.ttftMs >= 55, `TTFT ${answer.ttftMs}`);
      assert.ok(answer.e2elMs - answer.ttftMs >= 55, `E2EL ${answer.e2elMs}`);
      // What comes behind the last content is no part of it, however slow the machine.
      assert.ok(answer.e2elMs < tookMs - 100, `E2EL ${answer.e2elMs} of ${tookMs}`);
      assert.is(answer.itlMs.length, 1);
      assert.ok(Math.abs(answer.itlMs[0]! - (answer.e2elMs - answer.ttftMs)) < 0.001);
    },
  );
  assert.is(header, 'c1');
  const { messages, ...rest } = seen;
  assert.equal(messages, request.messages);
  assert.equal(rest, {
    model: 'm',
    stream: true,
    stream_options: { include_usage: true },
    temperature: 0,
    max_tokens: 3,
    min_tokens: 3,
    ignore_eos: true,
    return_token_ids: true,
    return_prefill_stats: true,
    conversation_id: 'c1',
  });
});

test('a refusal carries the server’s sentence and a code for its status', async () => {
  const refuse =
    (status: number): Script =>
    (_, res) => {
      res.writeHead(status).end(JSON.stringify({ error: { message: 'The prompt is too long.' } }));
    };
  for (const [status, code] of [
    [400, 'INVALID_ARGUMENT'],
    [404, 'NOT_FOUND'],
    [500, 'INTERNAL'],
    [503, 'NODE_UNREACHABLE'],
  ] as const) {
    const failure = await chatFailure(refuse(status));
    assert.is(failure.code, code);
    assert.match(failure.message, `answered ${status}: The prompt is too long.`);
  }
});

test('a refusal that is no JSON is shown as it is', async () => {
  const failure = await chatFailure((_, res) => void res.writeHead(502).end('<html>bad gateway'));
  assert.match(failure.message, '<html>bad gateway');
});

test('an error in the middle of the stream fails the turn', async () => {
  const failure = await chatFailure((_, res) => {
    res.writeHead(200);
    res.write(event(contentChunk(' one', [1])));
    res.end(event({ error: { message: 'The decode node died.', code: 500 } }) + event('[DONE]'));
  });
  assert.is(failure.message, 'The decode node died.');
});

test('a stream that breaks off fails the turn', async () => {
  const cut = await chatFailure((_, res) => {
    res.writeHead(200);
    res.write(event(contentChunk(' one', [1])), () => res.destroy());
  });
  assert.is(cut.code, 'NODE_UNREACHABLE');
  const early = await chatFailure((_, res) => void res.writeHead(200).end(event(contentChunk(' one', [1]))));
  assert.match(early.message, /broke off/);
});

test('answers without content or usage are failures too', async () => {
  const empty = await chatFailure(
    (_, res) => void res.writeHead(200).end(event({ choices: [], usage }) + event('[DONE]')),
  );
  assert.match(empty.message, /without any content/);
  const noUsage = await chatFailure(
    (_, res) => void res.writeHead(200).end(event(contentChunk(' a', [1])) + event('[DONE]')),
  );
  assert.match(noUsage.message, /no usage/);
});

test('a server that stalls is given up after the limit, before and in the stream', async () => {
  const before = await chatFailure(() => {}, { timeoutMs: 80 });
  assert.is(before.code, 'TIMED_OUT');
  const within = await chatFailure(
    (_, res) => {
      res.writeHead(200);
      res.write(event(contentChunk(' one', [1])));
    },
    { timeoutMs: 80 },
  );
  assert.is(within.code, 'TIMED_OUT');
});

test('an abort ends the request and closes the connection', async () => {
  const controller = new AbortController();
  let closed = false;
  const failure = await chatFailure(
    (_, res) => {
      res.on('close', () => {
        closed = true;
      });
      res.writeHead(200);
      res.write(event(contentChunk(' one', [1])));
      setTimeout(() => controller.abort(), 20);
    },
    { signal: controller.signal },
  );
  assert.match(failure.message, 'Interrupted');
  assert.is(closed, true);
});

test('a server that is not there is NODE_UNREACHABLE', async () => {
  let url = '';
  await withServer(
    () => {},
    async (address) => {
      url = address;
    },
  );
  const client = new BenchClient(url, { timeoutMs: 1000 });
  const failure = await client.chat(request).catch((error: unknown) => error);
  await client.close();
  assert.is((failure as VllmPdError).code, 'NODE_UNREACHABLE');
});

test('a URL that is none is refused', () => {
  for (const url of ['localhost:8000', 'ftp://x', '']) {
    assert.throws(
      () => new BenchClient(url, { timeoutMs: 1 }),
      (error: VllmPdError) => error.code === 'INVALID_ARGUMENT' && error.param === 'url',
    );
  }
});

test('the path of the URL is kept', async () => {
  const paths: string[] = [];
  await withServer(
    (req, res) => {
      paths.push(req.url!);
      res.end('{"data":[{"id":"m"}]}');
    },
    async (url) => {
      const client = new BenchClient(`${url}/base/`, { timeoutMs: 1000 });
      assert.equal(await client.modelIds(), ['m']);
      await client.close();
    },
  );
  assert.equal(paths, ['/base/v1/models']);
});

test.run();
