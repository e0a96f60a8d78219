// Lengths of prompts without running a model: tokens of texts, tokens of the chat template, bytes of KV.
import { type BackendChoice, type KvCacheDtype, type KvCacheDtypeChoice, kvElementBytes } from '../config.js';
import { loadNative } from '../native.js';
import { chooseBackend } from './choose-backend.js';
import { resolveKvCacheDtype } from './kv-cache-dtype.js';
import { loadModelTexts } from './model-folder.js';
import { type PublishedShape, publishedShapeNames, publishedShapes } from './published-shapes.js';
import { resolveModel } from './resolve-model.js';

export interface PromptMeter {
  count(text: string): number;
  /**
   * Tokens that the chat template adds to messages of these roles, up to where the answer begins. Throws INVALID_ARGUMENT
   * where the template refuses them.
   */
  templateTokens(roles: readonly string[]): number;
  readonly kv: { readonly model: string; readonly dtype: string; readonly bytes_per_token: number };
}

/** What KV of published models is kept as where it matters: on GPUs, and on chips with AVX-512. */
const publishedDtype: KvCacheDtype = 'bfloat16';

/** What `auto` is on this machine. */
function dtypeHere(choice: BackendChoice | undefined): KvCacheDtype {
  // Prices are asked for GPUs that are elsewhere, too.
  const backend = choice === 'cuda' ? choice : chooseBackend({ ...(choice && { backend: choice }) });
  const weights = backend === 'cuda' ? 'bfloat16' : loadNative().defaultDtype;
  return resolveKvCacheDtype('auto', backend, weights);
}

/** One token or few in any vocabulary, and nothing that a template would trim. */
const placeholder = 'a';

/**
 * `model`: as `resolveModel` takes it, or the name of a published shape, whose KV is priced then, with the embedded
 * tokenizer. Throws NOT_FOUND or BAD_FILE.
 */
export async function openPromptMeter(
  model: string,
  kvCacheDtype: KvCacheDtypeChoice,
  backend?: BackendChoice,
): Promise<PromptMeter> {
  const shape = publishedShapeNames.find((name) => name === model);
  const { config, tokenizer, chatTemplate } = await loadModelTexts(
    await resolveModel(shape ? 'default' : model),
  );
  const elements = shape ? kvElementsOf(shape) : config.numLayers * 2 * config.numKvHeads * config.headDim;
  const dtype = kvCacheDtype !== 'auto' ? kvCacheDtype : shape ? publishedDtype : dtypeHere(backend);
  const count = (text: string) => tokenizer.encode(text, { addSpecialTokens: false }).length;
  const added = new Map<string, number>();
  return {
    count,
    templateTokens: (roles) => {
      const key = roles.join(' ');
      const known = added.get(key);
      if (known !== undefined) return known;
      const messages = roles.map((role) => ({ role, content: placeholder }));
      const numTokens = chatTemplate.encodeChat(messages).length - roles.length * count(placeholder);
      added.set(key, numTokens);
      return numTokens;
    },
    kv: { model, dtype, bytes_per_token: elements * kvElementBytes[dtype] },
  };
}

/** K and V of one token, all layers. */
function kvElementsOf(name: PublishedShape): number {
  const shape = publishedShapes[name];
  const headDim = 'head_dim' in shape ? shape.head_dim : shape.hidden_size / shape.num_attention_heads;
  return shape.num_hidden_layers * 2 * shape.num_key_value_heads * headDim;
}
