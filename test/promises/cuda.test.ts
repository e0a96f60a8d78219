// The promises on a GPU, here an emulated one that every node process drives for itself: the same text in every mode, the
// ledger that lengths determine, blocks read from device to device and through the host, whole pools.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { EngineOptions } from '../../src/engine-options.js';
import type { ClusterOptions } from '../../src/server/cluster.js';
import { ledgerBins } from '../../src/wire.js';
import { useEmulatedDevice } from '../native/emulated-device.js';
import { withCluster } from '../with-cluster.js';
import { playConversation, texts } from './conversation.js';

/** Two turns, as short as they can be: in the second P finds one block on D, which D's answer has filled. */
const numAnswerTokens = 8;
const prompts = ['How does a kettle know?', 'And why?'];

const play = (options: ClusterOptions) => playConversation(options, prompts, numAnswerTokens);

const modes: Record<string, EngineOptions> = {
  uni: { kvTransfer: { mode: 'uni' } },
  'bi from device to device': { kvTransfer: { mode: 'bi' } },
  'bi through the host, over tcp': { kvTransfer: { mode: 'bi', agent: 'tcp' } },
};

if (useEmulatedDevice()) {
  const aggregated = await play({ prefill: 0, decode: 1, engine: { backend: 'cuda' } });

  for (const [name, engine] of Object.entries(modes)) {
    test(`${name}: answers are an aggregated node's, and the ledger is the closed form`, async () => {
      const answers = await play({ engine: { backend: 'cuda', ...engine } });
      assert.equal(texts(answers), texts(aggregated));
      const [first, second] = answers.map(({ stats }) => stats);
      const heldByP = Math.floor(first!.num_prompt_tokens / 16) * 16;
      const withKv = first!.num_prompt_tokens + numAnswerTokens - 1;
      const pulled = name === 'uni' ? 0 : Math.floor(withKv / 16) * 16 - heldByP;
      assert.is(pulled, name === 'uni' ? 0 : 16);
      assert.is(second!.ledger.local_hit, heldByP);
      assert.is(second!.ledger.pulled_from_d, pulled);
      assert.is(second!.num_computed_tokens, second!.num_prompt_tokens - heldByP - pulled);
      for (const { num_prompt_tokens, ledger } of [first!, second!]) {
        assert.is(
          ledgerBins.reduce((sum, bin) => sum + ledger[bin], 0),
          num_prompt_tokens,
        );
      }
      assert.is(second!.kv_bytes_d_to_p > 0, name !== 'uni');
      assert.ok(second!.kv_bytes_p_to_d > 0);
    });
  }

  test('the pool is sized by the share of the memory that a node may fill', async () => {
    // Of 4 GiB, and no number of blocks.
    const engine = { backend: 'cuda', gpuMemoryUtilization: 0.02, cache: { numBlocks: undefined } } as const;
    await withCluster(
      { prefill: 0, decode: 1, engine: engine as unknown as EngineOptions },
      async (cluster) => {
        const { numBlocks } = await cluster.stateOf(cluster.nodes[0]!);
        assert.ok(numBlocks > 2 && numBlocks !== 256, `${numBlocks} blocks`);
      },
    );
  });
}

test.run();
