// vllm-pd model create: writes one of the embedded models as a model folder.
import path from 'node:path';
import { string } from '@oclif/core/args';
import { integer, option } from '@oclif/core/flags';
import { BaseCommand } from '../../src/cli/base-command.js';
import { onInterrupt } from '../../src/cli/interrupt.js';
import { defaults } from '../../src/engine-options.js';
import type { ArchitectureName, WeightsFormat } from '../../src/model/default-model.js';
import { type PublishedShape, publishedShapeNames } from '../../src/model/published-shapes.js';

const embedded = ['default', 'tiny'] as const satisfies readonly ArchitectureName[];

function isPublished(arch: ArchitectureName | PublishedShape): arch is PublishedShape {
  return !embedded.some((name) => name === arch);
}

interface Flags {
  readonly arch: ArchitectureName | PublishedShape;
  readonly seed: number;
  readonly format: WeightsFormat;
  readonly 'num-layers'?: number | undefined;
}

export default class ModelCreate extends BaseCommand {
  static override readonly summary = 'Write a model folder with seeded random weights.';

  static override readonly description =
    'The folder has the layout of Hugging Face (config.json, model.safetensors, tokenizer.json, tokenizer_config.json, ' +
    'generation_config.json, onnx/model.onnx) and the same bytes on every machine. The model answers with made-up words, depends on its ' +
    'whole context, and never stops by itself: answers are as long as max_tokens says.\n\n' +
    'With the name of a published model the weights have its shape (as with the dummy load format of vLLM), so that it costs what the ' +
    'model itself costs. The tokenizer is the embedded one; the vocabulary is padded to the published size, and padding ' +
    'is never answered. Weights are written in shards, with bounded memory, after a look at the free disk space.';

  static override readonly examples = [
    '<%= config.bin %> <%= command.id %> ./my-model',
    '<%= config.bin %> <%= command.id %> ./tiny-model --arch tiny --seed 7',
    '<%= config.bin %> <%= command.id %> ./my-model --format both',
    '<%= config.bin %> <%= command.id %> ./qwen --arch qwen3-0.6b',
    '<%= config.bin %> <%= command.id %> ./llama --arch llama-3.1-8b --num-layers 2',
  ];

  static override readonly args = {
    folder: string({ required: true, description: 'Where to write it; must not exist or be empty.' }),
  };

  static override readonly flags = {
    arch: option({
      options: [...embedded, ...publishedShapeNames] as const,
      default: 'default' as const,
      description:
        'default: 28.6 million parameters; tiny: 0.7 million, for tests; tiny-…: as small, of another family; ' +
        'else the shape of a published model.',
    })(),
    'num-layers': integer({
      min: 1,
      max: 1024,
      description: 'Layers, instead of as many as the published model has.',
    }),
    seed: integer({ min: 0, default: 0, description: 'Seed of the weights.' }),
    format: option({
      options: ['safetensors', 'onnx', 'both'] as const satisfies readonly WeightsFormat[],
      default: 'safetensors' as const,
      description: 'What the weights are written as: safetensors (bf16), or an ONNX decoder (float32).',
    })(),
  };

  async run(): Promise<{ path: string; arch: string; seed: number; num_parameters: number }> {
    const { args, flags } = await this.parse(ModelCreate);
    const { inspectModel } = await import('../../src/model/inspect-model.js');
    const { VllmPdError } = await import('../../src/errors.js');
    const folder = path.resolve(args.folder);
    const percent = 100;
    const progress = await this.startProgress('weights', percent);
    let isStopped = false;
    const offInterrupt = onInterrupt(() => {
      isStopped = true;
    });
    const onProgress = (fraction: number) => {
      // What was written so far is removed on the way out.
      if (isStopped) throw new VllmPdError('INTERNAL', 'The writing of the model was stopped.');
      progress.update(Math.round(fraction * percent));
    };
    const created = await this.#create(folder, flags, onProgress).finally(() => {
      offInterrupt();
      progress.stop();
    });
    if (!created) {
      const message = `${folder} has content already; expected a folder that does not exist or is empty.`;
      throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'folder' });
    }
    const report = await inspectModel(folder, defaults.blockSize);
    const written = [...report.dtypes, ...(report.backends.includes('onnx') ? ['ONNX'] : [])].join(', ');
    const { num_parameters = 0 } = report;
    this.log(`${folder}: ${num_parameters.toLocaleString('en')} parameters, ${written}`);
    return { path: folder, arch: flags.arch, seed: flags.seed, num_parameters };
  }

  async #create(folder: string, flags: Flags, onProgress: (fraction: number) => void): Promise<boolean> {
    const { arch, seed, format, 'num-layers': numLayers } = flags;
    const options = { seed, format, onProgress };
    if (isPublished(arch)) {
      const { createDummyModel } = await import('../../src/model/dummy-model.js');
      return createDummyModel(folder, { ...options, arch, ...(numLayers !== undefined && { numLayers }) });
    }
    if (numLayers !== undefined) {
      const { VllmPdError } = await import('../../src/errors.js');
      const message = `--num-layers goes with the shape of a published model, but --arch is ${arch}.`;
      throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'num-layers' });
    }
    const { createModelFolder } = await import('../../src/model/default-model.js');
    return createModelFolder(folder, { ...options, arch });
  }
}
