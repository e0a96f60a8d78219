// Whatever a client puts into a field is answered or refused with a sentence: never a 5xx, never a hang, nothing left behind.
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { chatCompletionSchema, completionSchema } from '../../../src/server/api/openai-schema.js';
import { type TestApi, text, withApi } from './setup.js';

const hostileNumbers = [0, -0, -1, 1, 2, 0.5, 1e-320, 2 ** 31, 2 ** 53, -(2 ** 63), 1e308];
const hostileTexts = ['', '\0', '\ud800', '<|im_end|>', '__proto__', '../../etc/passwd', '💥'.repeat(50)];
const hostileObjects = ['__proto__', 'constructor', 'toString'].map((key) =>
  JSON.parse(`{"${key}": {"a": 1}}`),
);

const fieldValue = fc.oneof(
  fc.constantFrom(...hostileNumbers),
  fc.constantFrom(...hostileTexts),
  fc.constantFrom<unknown>(true, false, null, [], {}, [[]], [null], ...hostileObjects),
  fc.jsonValue({ maxDepth: 3 }),
);

/** A body that would be answered, with up to four of its fields replaced, and now and then an unknown one. */
function bodies(valid: object, names: readonly string[]): fc.Arbitrary<object> {
  const name = fc.oneof(
    { weight: 20, arbitrary: fc.constantFrom(...names) },
    { weight: 1, arbitrary: fc.string() },
  );
  return fc
    .array(fc.tuple(name, fieldValue), { minLength: 1, maxLength: 4 })
    .map((fields) => ({ ...valid, ...Object.fromEntries(fields) }));
}

const endpoints = [
  {
    path: '/v1/completions',
    schema: completionSchema,
    valid: { prompt: text, max_tokens: 1 },
  },
  {
    path: '/v1/chat/completions',
    schema: chatCompletionSchema,
    valid: { messages: [{ role: 'user', content: text }], max_completion_tokens: 1 },
  },
] as const;

async function isAnswered(api: TestApi, path: string, body: object): Promise<number> {
  const reply = await api.post(path, body, { 'x-request-id': 'same-each-time' });
  if (reply.status === 200) return reply.status;
  assert.ok(reply.status >= 400 && reply.status < 500, `${reply.status}: ${reply.text}`);
  assert.type(reply.json.error.message, 'string');
  assert.not.match(reply.json.error.message, /undefined|\[object|TypeError|Cannot read/);
  return reply.status;
}

for (const { path, schema, valid } of endpoints) {
  test(`${path} answers or refuses whatever its fields are`, () =>
    withApi({ scheduler: { maxModelLen: 256 } }, async (api) => {
      const statuses = new Map<number, number>();
      const property = fc.asyncProperty(bodies(valid, Object.keys(schema.shape)), async (body) => {
        const status = await isAnswered(api, path, body);
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
      });
      await fc.assert(property, { seed: Number(process.env.VLLM_PD_SEED ?? 1), numRuns: 400 });
      assert.ok((statuses.get(200) ?? 0) > 20, 'hardly any body was answered');
      assert.ok((statuses.get(400) ?? 0) > 100, 'hardly any body was refused');
    }));
}

test.run();
