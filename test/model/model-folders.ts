// Model folders made for one test and removed after it.
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { VllmPdError } from '../../src/errors.js';
import { createModelFolder } from '../../src/model/default-model.js';
import { byteAlphabet } from '../../src/model/tokenizer.js';

/** Contents by file name; objects are written as JSON. */
export type Files = Readonly<Record<string, string | Uint8Array | object>>;

export async function withFolder<T>(files: Files, use: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(path.join(tmpdir(), 'vllm-pd-test-'));
  try {
    for (const [name, content] of Object.entries(files)) {
      await mkdir(path.dirname(path.join(folder, name)), { recursive: true });
      const raw = typeof content === 'string' || content instanceof Uint8Array;
      await writeFile(path.join(folder, name), raw ? content : JSON.stringify(content));
    }
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

export function withTinyModel<T>(use: (folder: string) => Promise<T>): Promise<T> {
  return withFolder({}, async (parent) => {
    const folder = path.join(parent, 'tiny');
    await createModelFolder(folder, { arch: 'tiny', seed: 0 });
    return use(folder);
  });
}

/** The error that `action` fails with; fails itself if it is none of ours. */
export async function errorOf(action: () => unknown): Promise<VllmPdError> {
  try {
    await action();
  } catch (error) {
    if (error instanceof VllmPdError) return error;
    throw error;
  }
  throw new Error('Expected an error but there was none.');
}

export const llamaConfig = {
  model_type: 'llama',
  vocab_size: 32,
  hidden_size: 8,
  intermediate_size: 16,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 64,
  eos_token_id: 2,
};

/** A byte-level BPE tokenizer: 256 bytes, one token per merge, then the special tokens. */
export function byteLevelTokenizer(
  merges: readonly (readonly [string, string])[],
  specials: readonly string[],
) {
  const vocab = [...byteAlphabet, ...merges.map((pair) => pair.join(''))];
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: '1.0',
    added_tokens: specials.map((content, i) => ({ id: vocab.length + i, content, special: true })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: byteLevel,
    decoder: byteLevel,
    model: { type: 'BPE', vocab: Object.fromEntries(vocab.map((token, id) => [token, id])), merges },
  };
}

/** Small and repeatable; in [0, 1). */
export function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}
