// What a node on a GPU does when the GPU fails it, on an emulated one: told why at the start, an error for the client and no
// wreck in the middle of a step.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { EngineOptions } from '../../src/engine-options.js';
import { VllmPdError } from '../../src/errors.js';
import { loadNative } from '../../src/native.js';
import { useEmulatedDevice } from '../native/emulated-device.js';
import { allGone, descendantsOf } from '../processes.js';
import { withCluster } from '../with-cluster.js';
import { chat } from './by-hand.js';

/** One node, started with these in its environment. */
async function withNode(
  env: Readonly<Record<string, string>>,
  engine: EngineOptions,
  work: Parameters<typeof withCluster>[1],
): Promise<void> {
  Object.assign(process.env, env);
  try {
    await withCluster({ prefill: 0, decode: 1, engine: { backend: 'cuda', ...engine } }, work);
  } finally {
    for (const name of Object.keys(env)) delete process.env[name];
  }
}

async function startError(
  env: Readonly<Record<string, string>>,
  engine: EngineOptions = {},
): Promise<string> {
  try {
    await withNode(env, engine, async () => {});
  } catch (error) {
    assert.instance(error, VllmPdError);
    return `${(error as VllmPdError).code}: ${(error as VllmPdError).message}`;
  }
  return 'it started';
}

if (useEmulatedDevice()) {
  test('weights that do not fit into the memory of the GPU end the start with both sizes', async () => {
    assert.match(
      await startError({ VLLM_PD_EMULATED_MEMORY: '200000' }),
      /INVALID_ARGUMENT: .*Expected \d+ bytes of memory on Emulated GPU but only \d+ are free/,
    );
  });

  test('a pool that does not fit ends the start with what is there', async () => {
    const memory = { VLLM_PD_EMULATED_MEMORY: String(256 << 20) };
    const all = { cache: { numBlocks: undefined }, gpuMemoryUtilization: 0.01 } as unknown as EngineOptions;
    assert.match(await startError(memory, all), /INVALID_ARGUMENT: .*Expected room for two KV blocks/);
    assert.match(
      await startError(memory, { cache: { numBlocks: 1_000_000 } }),
      /INVALID_ARGUMENT: .*Expected \d+ bytes of memory on Emulated GPU/,
    );
  });

  test('a driver older than what compiled the kernels is named with both versions', async () => {
    if (loadNative().build.nvcc === null) return console.log('skipped: the module was built without kernels');
    assert.match(
      await startError({ VLLM_PD_EMULATED_VERSION: '11080' }),
      /NOT_SUPPORTED: .*Expected a driver for CUDA \d+\.\d or above.* but this one is for CUDA 11\.8/,
    );
  });

  test('KV that the chip or the backend does not have is refused with what there is', async () => {
    assert.match(
      await startError({ VLLM_PD_EMULATED_CAPABILITY: '80' }, { kvCacheDtype: 'fp8' }),
      /NOT_SUPPORTED: .*compute capability 8\.9 or above for --kv-cache-dtype fp8 but Emulated GPU has 8\.0/,
    );
    const refused: readonly [EngineOptions, RegExp][] = [
      [
        { kvCacheDtype: 'float32' },
        /--kv-cache-dtype auto, bfloat16, fp8 .*weights in bfloat16 but received float32/,
      ],
      [
        { kvCacheDtype: 'bfloat16', dtype: 'float16' },
        /auto, float16, fp8 .*weights in float16 but received bfloat16/,
      ],
      [
        { backend: 'cpu', kvCacheDtype: 'fp8' },
        /--kv-cache-dtype auto, .* with --backend cpu but received fp8/,
      ],
      [
        { backend: 'cpu', dtype: 'float16' },
        /--dtype auto, float32 or bfloat16 with --backend cpu but received float16/,
      ],
    ];
    for (const [engine, message] of refused) assert.match(await startError({}, engine), message);
  });

  test('a GPU that is lost in a step is an error for the client, and the node says so and ends in order', async () => {
    const before = descendantsOf(process.pid);
    let nodes: number[] = [];
    // Enough for the prompt, not for the answer.
    await withNode({ VLLM_PD_EMULATED_LAUNCHES: '120' }, {}, async (cluster) => {
      nodes = descendantsOf(process.pid).filter((pid) => !before.includes(pid));
      const [node] = cluster.nodes;
      const body = chat([{ role: 'user', content: 'How does a kettle know?' }], 64);
      const answer = await cluster.post('/v1/chat/completions', body, node!.url);
      assert.is(answer.status, 500);
      assert.match(await answer.text(), /could not launch .*CUDA_ERROR_LAUNCH_FAILED/);
      const health = await fetch(`${node!.url}/health`);
      assert.is(health.status, 503);
      assert.match(await health.text(), /The engine has stopped: .*CUDA_ERROR_LAUNCH_FAILED/);
      const next = await cluster.post('/v1/chat/completions', body, node!.url);
      assert.is(next.status, 500);
      assert.match(await next.text(), /The engine has stopped/);
    });
    assert.ok(nodes.length > 0);
    assert.ok(await allGone(nodes));
  });
}

test.run();
