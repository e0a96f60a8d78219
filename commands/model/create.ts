// vllm-pd model create: writes one of the embedded models as a model folder.
import path from 'node:path';
import { string } from '@oclif/core/args';
import { integer, option } from '@oclif/core/flags';
import { BaseCommand } from '../../src/cli.js';
import { defaults } from '../../src/config.js';
import type { ArchitectureName, WeightsFormat } from '../../src/model/default-model.js';

export default class ModelCreate extends BaseCommand {
  static override readonly summary = 'Write a model folder with seeded random weights.';

  static override readonly description =
    'The folder has the layout of Hugging Face (config.json, model.safetensors, tokenizer.json, tokenizer_config.json, ' +
    'generation_config.json, onnx/model.onnx) and the same bytes on every machine. The model answers with made-up words, depends on its ' +
    'whole context, and never stops by itself: answers are as long as max_tokens says.';

  static override readonly examples = [
    '<%= config.bin %> <%= command.id %> ./my-model',
    '<%= config.bin %> <%= command.id %> ./tiny-model --arch tiny --seed 7',
    '<%= config.bin %> <%= command.id %> ./my-model --format both',
  ];

  static override readonly args = {
    folder: string({ required: true, description: 'Where to write it; must not exist or be empty.' }),
  };

  static override readonly flags = {
    arch: option({
      options: ['default', 'tiny'] as const satisfies readonly ArchitectureName[],
      default: 'default' as const,
      description: 'default: 28.6 million parameters; tiny: 0.7 million, for tests.',
    })(),
    seed: integer({ min: 0, default: 0, description: 'Seed of the weights.' }),
    format: option({
      options: ['safetensors', 'onnx', 'both'] as const satisfies readonly WeightsFormat[],
      default: 'safetensors' as const,
      description: 'What the weights are written as: safetensors (bf16), or an ONNX decoder (float32).',
    })(),
  };

  async run(): Promise<{ path: string; arch: string; seed: number; num_parameters: number }> {
    const { args, flags } = await this.parse(ModelCreate);
    const { createModelFolder } = await import('../../src/model/default-model.js');
    const { inspectModel } = await import('../../src/model/inspect-model.js');
    const { VllmPdError } = await import('../../src/errors.js');
    const folder = path.resolve(args.folder);
    const percent = 100;
    const progress = await this.startProgress('weights', percent);
    const onProgress = (fraction: number) => progress.update(Math.round(fraction * percent));
    const created = await createModelFolder(folder, { ...flags, onProgress }).finally(() => progress.stop());
    if (!created) {
      const message = `${folder} has content already; expected a folder that does not exist or is empty.`;
      throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'folder' });
    }
    const report = await inspectModel(folder, defaults.blockSize);
    const written = [...report.dtypes, ...(report.backends.includes('onnx') ? ['ONNX'] : [])].join(', ');
    this.log(`${folder}: ${report.num_parameters.toLocaleString('en')} parameters, ${written}`);
    return { path: folder, arch: flags.arch, seed: flags.seed, num_parameters: report.num_parameters };
  }
}
