// Which turns are worth asking D about, by how their conversations begin.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { json, type Script } from './scripted-node.js';
import { answerBody, cacheQuery, decodes, handOver, leased, prefills, withProxy } from './setup.js';

const chat = '/v1/chat/completions';
const answers: Script = { [chat]: (_call, res) => json(res, 200, answerBody) };
const pair = {
  prefill: [
    {
      ...prefills,
      [chat]: (_call, res) => json(res, 200, { ...answerBody, kv_transfer_params: handOver }),
    } satisfies Script,
  ],
  decode: [{ ...decodes, ...answers }],
};
const user = (content: unknown) => ({ role: 'user', content });
const assistant = { role: 'assistant', content: 'an answer' };
const long = 'word '.repeat(100);

/** How often D was asked, once each of the conversations was sent. */
async function numQueries(conversations: readonly (readonly unknown[])[]): Promise<number> {
  let numAsked = 0;
  await withProxy(pair, {}, async ({ post, decode }) => {
    for (const messages of conversations) {
      const response = await post(chat, { messages });
      assert.is(response.status, 200);
      await response.text();
    }
    numAsked = decode[0]!.callsTo(cacheQuery).length;
  });
  return numAsked;
}

test('nobody is asked about the first turn of a conversation that begins like no other', async () => {
  assert.is(
    await numQueries([[user('one')], [user('two')], [{ role: 'system', content: 'three' }, user('one')]]),
    0,
  );
});

test('a turn with an answer in it is asked about, also when the proxy has not seen the turns before', async () => {
  assert.is(await numQueries([[user('one'), assistant, user('more')]]), 1);
});

test('a first turn that begins like another is asked about: what they share may be held', async () => {
  assert.is(await numQueries([[user(`${long}one`)], [user(`${long}two`)]]), 1);
  assert.is(await numQueries([[user(`one ${long}`)], [user(`two ${long}`)]]), 0);
});

test('what cannot be told apart is asked about', async () => {
  assert.is(await numQueries([[user([{ type: 'text', text: 'one' }])]]), 1);
});

test('P is told what is held of a turn that D is asked about, and nothing of another', async () => {
  await withProxy(pair, {}, async ({ post, prefill }) => {
    for (const messages of [[user('one')], [user('one'), assistant, user('more')]]) {
      await (await post(chat, { messages })).text();
    }
    const told = prefill[0]!.callsTo(chat).map(({ body }) => body.kv_transfer_params);
    assert.is((told[0] as { remote_block_ids: unknown }).remote_block_ids, null);
    assert.equal(told[1], leased);
  });
});

test.run();
