// vllm-pd export: a kept run as a report in one file.
import { writeFileSync } from 'node:fs';
import { string } from '@oclif/core/args';
import { option, string as stringFlag } from '@oclif/core/flags';
import { BaseCommand } from '../src/cli/base-command.js';
import { metricFlags } from '../src/cli/metric-flags.js';
import { messageOf, VllmPdError } from '../src/errors.js';

export default class Export extends BaseCommand {
  static override readonly summary = 'Write a kept run as CSV, JSON, Markdown or a picture.';

  static override readonly description =
    'csv: one row a turn and mode. json: the summary and the turns. markdown: the figures with how they were measured. ' +
    'svg: where the KV of each turn came from, and its time to first token.';

  static override readonly examples = [
    '<%= config.bin %> <%= command.id %> latest --format svg --output run.svg',
    '<%= config.bin %> <%= command.id %> latest --format markdown',
    '<%= config.bin %> <%= command.id %> 2026-01-31T12-00-00-multi-turn --format csv --output turns.csv',
  ];

  static override readonly args = {
    run: string({
      required: true,
      description: 'Folder of a kept run, its name, or `latest`, which is the last one with conversations.',
    }),
  };

  static override readonly flags = {
    format: option({
      options: ['csv', 'json', 'markdown', 'svg'] as const,
      default: 'markdown' as const,
      description: 'What to write.',
    })(),
    output: stringFlag({ char: 'o', description: 'File to write; stdout if absent.', helpValue: 'FILE' }),
    'results-dir': stringFlag({ description: 'Where runs are kept.', default: 'results' }),
    ...metricFlags,
  };

  async run(): Promise<{ folder: string; format: string; output: string | null; content: string | null }> {
    const { args, flags } = await this.parse(Export);
    const { metricsChoice } = await import('../src/bench/metrics-choice.js');
    const { readRun } = await import('../src/bench/results.js');
    const { exportRun } = await import('../src/bench/export-run.js');
    const { format, output } = flags;
    const kept = readRun(args.run, flags['results-dir'], metricsChoice(flags));
    const content = await exportRun(kept, format);
    if (output === undefined) {
      this.log(content.trimEnd());
      return { folder: kept.folder, format, output: null, content };
    }
    try {
      writeFileSync(output, content);
    } catch (cause) {
      const message = `Cannot write ${output}: ${messageOf(cause)}.`;
      throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'output', cause });
    }
    this.log(`Written to ${output}`);
    return { folder: kept.folder, format, output, content: null };
  }
}
