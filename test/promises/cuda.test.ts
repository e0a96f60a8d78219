// The promises on a GPU, here an emulated one that every node process drives for itself: the same text in every mode, the
// ledger that lengths determine, blocks read from device to device and through the host, whole pools.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { EngineOptions } from '../../src/engine-options.js';
import { type TransferPath, transferPaths } from '../../src/kv-transfer/agent.js';
import { ledgerBins } from '../../src/wire.js';
import { useEmulatedDevice } from '../native/emulated-device.js';
import { withCluster } from '../with-cluster.js';
import type { Answer } from './by-hand.js';
import { playConversation, texts } from './conversation.js';

/** Two turns, as short as they can be: in the second P finds one block on D, which D's answer has filled. */
const numAnswerTokens = 8;
const prompts = ['How does a kettle know?', 'And why?'];

interface Mode {
  readonly engine: EngineOptions;
  /** How every byte of KV came. */
  readonly path: TransferPath;
  readonly env?: Readonly<Record<string, string>>;
}

const bi: EngineOptions = { kvTransfer: { mode: 'bi' } };
const float16: EngineOptions = { dtype: 'float16', kvCacheDtype: 'fp8' };

const modes: Record<string, Mode> = {
  uni: { engine: { kvTransfer: { mode: 'uni' } }, path: 'cuda_ipc' },
  'bi from device to device': { engine: bi, path: 'cuda_ipc' },
  'bi in float16 with KV in fp8': { engine: { ...bi, ...float16 }, path: 'cuda_ipc' },
  'bi where IPC is refused, over tcp': { engine: bi, path: 'tcp', env: { VLLM_PD_EMULATED_IPC: 'off' } },
  'bi through the host, over tcp': { engine: { kvTransfer: { mode: 'bi', agent: 'tcp' } }, path: 'tcp' },
};

/** Bytes of KV that a node received, by how they came. */
async function receivedBy(url: string): Promise<Map<string, number>> {
  const metrics = await (await fetch(`${url}/metrics`)).text();
  const samples = metrics.matchAll(
    /^vllm_pd:kv_received_bytes_by_path_total\{[^}]*path="(\w+)"[^}]*\} (\d+)$/gm,
  );
  return new Map([...samples].map(([, path, bytes]) => [path!, Number(bytes)]));
}

async function play({ engine, path, env = {} }: Mode): Promise<Answer[]> {
  Object.assign(process.env, env);
  try {
    const options = { engine: { backend: 'cuda', ...engine } } as const;
    return await playConversation(options, prompts, numAnswerTokens, async ({ nodes }) => {
      for (const { url, role } of nodes) {
        const received = await receivedBy(url);
        assert.equal([...received.keys()].sort(), [...transferPaths].sort());
        const isReader = role === 'decode' || engine.kvTransfer?.mode === 'bi';
        for (const [way, bytes] of received)
          assert.is(bytes > 0, isReader && way === path, `${role}, ${way}: ${bytes} bytes`);
      }
    });
  } finally {
    for (const name of Object.keys(env)) delete process.env[name];
  }
}

const aggregated = (engine: EngineOptions) =>
  playConversation(
    { prefill: 0, decode: 1, engine: { backend: 'cuda', ...engine } },
    prompts,
    numAnswerTokens,
  );

if (useEmulatedDevice()) {
  const answersOf = {
    bfloat16: texts(await aggregated({})),
    float16: texts(await aggregated(float16)),
  };

  const isEmulated = process.env.VLLM_PD_LIBCUDA!.endsWith('libcuda_emulated.so');
  for (const [name, mode] of Object.entries(modes)) {
    if (mode.env && !isEmulated) {
      console.log(`skipped: ${name}: a device's driver cannot be told to`);
      continue;
    }
    test(`${name}: answers are an aggregated node's, and the ledger is the closed form`, async () => {
      const answers = await play(mode);
      assert.equal(texts(answers), answersOf[mode.engine.dtype === 'float16' ? 'float16' : 'bfloat16']);
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
