// One engine, one number of threads, in a process of its own: prints { prefillMs, decodeMs, tokens } for each round.
// Usage: node trial.mjs <engine> <model> <threads>
import { availableParallelism } from 'node:os';
import path from 'node:path';

const numPromptTokens = 512;
const numDecodedTokens = 64;
const numRounds = 3;
const vocabSize = 4096;

/** The same prompts in every engine; a new one each round, so that nothing is cached. */
function promptOf(round) {
  let state = round + 1;
  return Array.from({ length: numPromptTokens }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return 16 + (state % (vocabSize - 32));
  });
}

/** Times the first token apart from those after it. */
async function timed(tokens) {
  const started = performance.now();
  const ids = [];
  let firstAt = 0;
  for await (const id of tokens) {
    if (ids.length === 0) firstAt = performance.now();
    ids.push(id);
    if (ids.length === numDecodedTokens + 1) break;
  }
  const ended = performance.now();
  return { prefillMs: firstAt - started, decodeMs: ended - firstAt, tokens: ids };
}

const engines = {
  async 'vllm-pd'(model, numThreads, options) {
    const { completeEngineConfig, Engine } = await import('../../dist/src/index.js');
    const node = { modelPath: model, engineId: 'peer-comparison', role: 'both' };
    const scheduler = { maxModelLen: 1024 };
    const cache = { numBlocks: 256, enablePrefixCaching: false };
    const engine = await Engine.start(
      completeEngineConfig({ numThreads, scheduler, cache, ...options }, node),
    );
    const samplingParams = { temperature: 0, ignoreEos: true, maxTokens: numDecodedTokens + 1 };
    async function* generate(promptTokenIds) {
      for await (const piece of engine.generate({ promptTokenIds, samplingParams })) yield* piece.tokenIds;
    }
    return { generate, close: () => engine.shutdown() };
  },

  async 'llama.cpp'(model, threads) {
    const { getLlama, LlamaLogLevel } = await import('node-llama-cpp');
    const llama = await getLlama({
      gpu: false,
      build: 'never',
      logLevel: LlamaLogLevel.error,
      maxThreads: threads,
    });
    const loaded = await llama.loadModel({ modelPath: model, gpuLayers: 0 });
    const context = await loaded.createContext({ contextSize: 1024, batchSize: numPromptTokens, threads });
    const sequence = context.getSequence();
    async function* generate(prompt) {
      await sequence.clearHistory();
      yield* sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true });
    }
    return { generate, close: () => llama.dispose() };
  },

  async 'transformers.js'(model, numThreads) {
    // ONNX Runtime, which it runs on, reports to Microsoft otherwise.
    process.env.ORT_DISABLE_TELEMETRY ??= '1';
    const { AutoModelForCausalLM, BaseStreamer, env, Tensor } = await import('@huggingface/transformers');
    env.allowRemoteModels = false;
    env.localModelPath = path.dirname(path.resolve(model));
    const session_options = {
      intraOpNumThreads: numThreads,
      interOpNumThreads: 1,
      extra: { session: { intra_op: { allow_spinning: '0' } } },
    };
    const loaded = await AutoModelForCausalLM.from_pretrained(path.basename(model), {
      dtype: 'fp32',
      device: 'cpu',
      use_external_data_format: true,
      session_options,
    });
    async function* generate(prompt) {
      const ids = BigInt64Array.from(prompt, BigInt);
      const arrived = [];
      let wake = () => {};
      class Collector extends BaseStreamer {
        put([[...values]]) {
          arrived.push(...values.map(Number));
          wake();
        }
        end() {}
      }
      const done = loaded.generate({
        inputs: new Tensor('int64', ids, [1, ids.length]),
        attention_mask: new Tensor('int64', new BigInt64Array(ids.length).fill(1n), [1, ids.length]),
        max_new_tokens: numDecodedTokens + 1,
        do_sample: false,
        eos_token_id: -1,
        streamer: new Collector(),
      });
      // The streamer is handed the prompt first.
      for (let next = prompt.length; next < prompt.length + numDecodedTokens + 1; next++) {
        while (arrived.length <= next)
          await new Promise((resolve) => {
            wake = resolve;
          });
        yield arrived[next];
      }
      await done;
    }
    return { generate, close: () => loaded.dispose() };
  },
};

const [name, model, threads = String(availableParallelism()), options = '{}'] = process.argv.slice(2);
const engine = await engines[name](model, Number(threads), JSON.parse(options));
await timed(engine.generate(promptOf(-1)));
const rounds = [];
for (let round = 0; round < numRounds; round++) rounds.push(await timed(engine.generate(promptOf(round))));
await engine.close();
console.log(JSON.stringify({ numPromptTokens, numDecodedTokens, rounds }));
process.exit(0);
