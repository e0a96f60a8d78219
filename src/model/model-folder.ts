// A model folder as the engine uses it: forward pass, tokenizer, chat template and generation defaults together.
import { ChatTemplate } from './chat-template.js';
import { type GenerationConfig, readGenerationConfig } from './generation-config.js';
import type { Model } from './model.js';
import { type ModelConfig, readModelConfig } from './model-config.js';
import { loadModel } from './native-model.js';
import { Tokenizer } from './tokenizer.js';

export interface ModelFolder {
  readonly model: Model;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly chatTemplate: ChatTemplate;
  readonly generationConfig: GenerationConfig;
}

/** Loads a model folder. The caller closes `model`. Throws NOT_FOUND, BAD_FILE or NATIVE_UNAVAILABLE. */
export async function loadModelFolder(
  modelPath: string,
  options: { readonly numThreads: number },
): Promise<ModelFolder> {
  const texts = await loadModelTexts(modelPath);
  return { ...texts, model: await loadModel(modelPath, options.numThreads) };
}

/** Everything but the weights: enough to render, encode and decode. */
export async function loadModelTexts(modelPath: string): Promise<Omit<ModelFolder, 'model'>> {
  const config = await readModelConfig(modelPath);
  const tokenizer = await Tokenizer.load(modelPath);
  const chatTemplate = await ChatTemplate.load(modelPath, tokenizer);
  const generationConfig = await readGenerationConfig(modelPath, config);
  return { config, tokenizer, chatTemplate, generationConfig };
}
