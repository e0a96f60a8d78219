// The equality has teeth: one pulled block altered behind the verification's back changes the answer; altered in the open
// it is refused and computed again.
import { existsSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { withCluster } from '../with-cluster.js';
import { type Answer, chat, complete, decode, type Message, prefill, query } from './by-hand.js';
import { PoolTampering } from './pool-tampering.js';

const opening: Message = { role: 'user', content: 'Count the ways in which a river can be crossed.' };
const first = chat([opening], 120, 'river');

/** Plays turn 2 with `tamper` at work on one of D's blocks (one that P pulls) while P reads it. */
async function secondTurn(tamper: (pool: PoolTampering, blockId: number) => () => void): Promise<Answer> {
  return withCluster({ engine: { kvTransfer: { mode: 'bi' } } }, async (cluster) => {
    const p = cluster.prefill[0]!;
    const d = cluster.decode[0]!;
    const one = await decode(d.url, first, await prefill(p.url, first, null));
    const body = chat(
      [opening, { role: 'assistant', content: one.text }, { role: 'user', content: 'Which is the driest?' }],
      60,
      'river',
    );
    const found = await query(d.url, body, true);
    // The first block behind P's own ones.
    const blockId = found.block_ids[Math.floor(one.stats.num_prompt_tokens / 16)]!;
    const pool = new PoolTampering(d.pid);
    try {
      const restore = tamper(pool, blockId);
      const handOver = await prefill(p.url, body, found.kv_transfer_params);
      restore();
      const answer = await decode(d.url, body, handOver);
      await cluster.assertWhole();
      return answer;
    } finally {
      pool.close();
    }
  });
}

if (process.platform !== 'linux' || !existsSync('/proc/self/fd')) {
  console.log('skipped: pools of other processes can be written through /proc on Linux only');
} else {
  const honest = await secondTurn(() => () => {});

  test('the untouched turn pulls, and answers as an aggregated node does', async () => {
    assert.ok(honest.stats.ledger.pulled_from_d > 0);
    await withCluster({ prefill: 0, decode: 1 }, async (cluster) => {
      const one = await complete(cluster.proxyUrl, first);
      const messages: Message[] = [
        opening,
        { role: 'assistant', content: one.text },
        { role: 'user', content: 'Which is the driest?' },
      ];
      assert.is((await complete(cluster.proxyUrl, chat(messages, 60, 'river'))).text, honest.text);
    });
  });

  test('a block altered behind the back of verification changes the answer', async () => {
    const answer = await secondTurn((pool, blockId) => {
      const bytes = pool.readBlock(blockId);
      const altered = Buffer.from(bytes);
      for (let at = 0; at < altered.length; at += 4) altered.writeFloatLE(-2 * altered.readFloatLE(at), at);
      pool.writeBlock(blockId, altered);
      // D's own copy is whole again before D decodes: what differs came through P's pull.
      return () => pool.writeBlock(blockId, bytes);
    });
    assert.is(answer.stats.ledger.pulled_from_d, honest.stats.ledger.pulled_from_d);
    assert.is.not(answer.text, honest.text);
  });

  test('a block altered in the open is refused and computed again', async () => {
    const answer = await secondTurn((pool, blockId) => {
      const bytes = pool.readBlock(blockId);
      pool.retractRow(blockId);
      pool.writeBlock(blockId, Buffer.alloc(bytes.length, 0x7f));
      return () => pool.writeBlock(blockId, bytes);
    });
    assert.is(answer.stats.ledger.pulled_from_d, 0);
    assert.is(answer.stats.ledger.transfer_failed, honest.stats.ledger.pulled_from_d);
    assert.is(answer.text, honest.text);
  });
}

test.run();
