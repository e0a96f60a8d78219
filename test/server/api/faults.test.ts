// Answers whose model fails under way.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { NativeModel } from '../../../src/native/model.js';
import { loadNative } from '../../../src/native.js';
import { parseEvents, type TestApi, text, withApi } from './setup.js';

const greedy = { prompt: text, temperature: 0, max_tokens: 20, ignore_eos: true };

/** Forward passes that still succeed; the ones after them fail. */
let numGoodPasses = Number.POSITIVE_INFINITY;

/** Models loaded from now on can be made to fail. */
function watchModels(): void {
  const native = loadNative();
  const loadModel = native.loadModel.bind(native);
  const load: typeof loadModel = async (...args) => {
    const model = await loadModel(...args);
    const faulty: NativeModel = {
      config: model.config,
      weightSource: model.weightSource,
      forward: async (pool, input) => {
        numGoodPasses -= 1;
        if (numGoodPasses < 0) throw new Error('kernel fault');
        return model.forward(pool, input);
      },
      forwardAndSample: (...step) => model.forwardAndSample(...step),
      close: () => model.close(),
    };
    return faulty;
  };
  Object.defineProperty(native, 'loadModel', { value: load });
}

watchModels();

/** The node serves as if nothing had happened. */
async function assertServes(api: TestApi): Promise<void> {
  numGoodPasses = Number.POSITIVE_INFINITY;
  assert.is((await api.get('/health')).status, 200);
  const { status, json } = await api.post('/v1/completions', greedy);
  assert.equal([status, json.usage.completion_tokens], [200, 20]);
}

test('a step that fails before the first token is a status, also for a stream', async () => {
  await withApi({}, async (api) => {
    for (const stream of [false, true]) {
      numGoodPasses = 0;
      const { status, json } = await api.post('/v1/completions', { ...greedy, stream });
      assert.is(status, 500);
      assert.equal(json.error, {
        message: 'The model failed: kernel fault',
        type: 'InternalServerError',
        param: null,
        code: 500,
      });
      await assertServes(api);
    }
  });
});

test('a step that fails in the middle of a stream is an event, and then the stream ends', async () => {
  await withApi({}, async (api) => {
    for (const [path, body] of [
      ['/v1/completions', greedy],
      ['/v1/chat/completions', { ...greedy, messages: [{ role: 'user', content: text }] }],
    ] as const) {
      numGoodPasses = 5;
      const reply = await api.post(path, { ...body, stream: true });
      assert.is(reply.status, 200);
      const events = parseEvents(reply.text);
      assert.equal(events.pop().error.code, 500);
      assert.ok(events.length >= 5);
      assert.ok(events.every((event) => event.choices[0].finish_reason === null));
      await assertServes(api);
    }
  });
});

test('of several choices one failure ends all', async () => {
  await withApi({ scheduler: { maxNumSeqs: 1 } }, async (api) => {
    numGoodPasses = 30;
    const { status } = await api.post('/v1/completions', { ...greedy, n: 3 });
    assert.is(status, 500);
    await assertServes(api);
    const metrics = (await api.get('/metrics')).text;
    assert.match(metrics, /finished_reason="error"[^}]*\} 1\n/);
    assert.match(metrics, /finished_reason="abort"[^}]*\} 1\n/);
  });
});

test.run();
