// A model folder as the engine uses it: forward pass, tokenizer, chat template and generation defaults together.

import type { Backend, GenerationChoice } from '../config.js';
import { VllmPdError } from '../errors.js';
import type { CudaModelOptions } from '../native/model-config.js';
import { ChatTemplate } from './chat-template.js';
import { type GenerationConfig, readGenerationConfig } from './generation-config.js';
import type { Model } from './model.js';
import { type ModelConfig, type ModelConfigOptions, readModelConfig } from './model-config.js';
import { loadCudaModel, loadModel, type WeightChoice } from './native-model.js';
import { loadOnnxModel } from './onnx-model.js';
import { readTextConfig, type TextConfig } from './text-config.js';
import { Tokenizer } from './tokenizer.js';

/** Enough to render, encode and decode. */
export interface ModelTexts<Config extends TextConfig = TextConfig> {
  readonly config: Config;
  readonly tokenizer: Tokenizer;
  readonly chatTemplate: ChatTemplate;
  readonly generationConfig: GenerationConfig;
}

export interface ModelFolder extends ModelTexts {
  readonly model: Model;
}

/** What stands in for the folder's own files. */
export interface TextChoice {
  /** A template, or the path of one. */
  readonly chatTemplate: string | null;
  readonly generation: GenerationChoice;
}

export interface LoadOptions extends ModelConfigOptions, WeightChoice {
  /** Default `cpu`. */
  readonly backend?: Backend;
  /** Which graph backend `onnx` runs; null = the most exact one. */
  readonly onnxFile?: string | null;
  readonly texts?: TextChoice;
  readonly numThreads: number;
  /** Asked for with backend `cuda`. */
  readonly cuda?: Omit<CudaModelOptions, 'dtype' | 'suppressTokenIds'>;
  /** Share, 0–1, of weights that are being packed because they were not found so. */
  readonly onPacked?: (fraction: number) => void;
}

/**
 * Loads a model folder. The caller closes `model`. Throws NOT_FOUND, BAD_FILE or NATIVE_UNAVAILABLE, and
 * INVALID_ARGUMENT for weights chosen on a backend that brings its own, NOT_SUPPORTED for `cuda` without a GPU.
 */
export async function loadModelFolder(modelPath: string, options: LoadOptions): Promise<ModelFolder> {
  const { backend, onnxFile, texts: choice, numThreads, cuda, onPacked, ...modelOptions } = options;
  if (backend !== 'onnx') {
    refuseOnnxFile(options);
    const texts = await loadModelTexts(modelPath, modelOptions, choice);
    const model =
      backend === 'cuda' && cuda
        ? await loadCudaModel(
            modelPath,
            { ...cuda, suppressTokenIds: texts.generationConfig.suppressTokens },
            modelOptions,
          )
        : await loadModel(modelPath, numThreads, modelOptions, onPacked);
    return { ...texts, model };
  }
  refuseWeightChoice(options);
  // The graph says how it is computed, so any architecture will do.
  const texts = await loadTexts(modelPath, await readTextConfig(modelPath), choice);
  return { ...texts, model: await loadOnnxModel(modelPath, texts.config, numThreads, onnxFile) };
}

function refuseWeightChoice({ dtype = 'auto', quantization = 'none' }: WeightChoice): void {
  const choices = { dtype: [dtype, 'auto'], quantization: [quantization, 'none'] } as const;
  for (const [param, [received, expected]] of Object.entries(choices)) {
    if (received === expected) continue;
    throw new VllmPdError(
      'INVALID_ARGUMENT',
      `Expected ${param} to be ${expected} with the onnx backend, whose graph says what its weights are, but received ${received}.`,
      { param },
    );
  }
}

function refuseOnnxFile({ backend = 'cpu', onnxFile }: LoadOptions): void {
  if (onnxFile == null) return;
  throw new VllmPdError(
    'INVALID_ARGUMENT',
    `Expected --onnx-file together with --backend onnx but received it with --backend ${backend}.`,
    { param: 'onnx-file' },
  );
}

/** Everything but the weights of a model that the native module can run. */
export async function loadModelTexts(
  modelPath: string,
  options: ModelConfigOptions = {},
  choice?: TextChoice,
): Promise<ModelTexts<ModelConfig>> {
  return loadTexts(modelPath, await readModelConfig(modelPath, options), choice);
}

/** The same for any architecture, of whose decoder nothing is known. */
export async function loadTextsAlone(modelPath: string): Promise<ModelTexts> {
  return loadTexts(modelPath, await readTextConfig(modelPath), undefined);
}

async function loadTexts<Config extends TextConfig>(
  modelPath: string,
  config: Config,
  choice: TextChoice | undefined,
): Promise<ModelTexts<Config>> {
  const tokenizer = await Tokenizer.load(modelPath);
  const chatTemplate = await ChatTemplate.load(modelPath, tokenizer, choice?.chatTemplate);
  const generationConfig = await readGenerationConfig(modelPath, config, choice?.generation);
  return { config, tokenizer, chatTemplate, generationConfig };
}
