// vllm-pd compare: kept runs side by side.
import { string } from '@oclif/core/args';
import { string as stringFlag } from '@oclif/core/flags';
import type { RunSummary } from '../src/bench/summary.js';
import { BaseCommand } from '../src/cli/base-command.js';
import { metricFlags } from '../src/cli/metric-flags.js';

export default class Compare extends BaseCommand {
  static override readonly summary =
    'Print kept runs side by side; a single one as it was printed when it ended.';

  static override readonly examples = [
    '<%= config.bin %> <%= command.id %> latest',
    '<%= config.bin %> <%= command.id %> 2026-01-31T12-00-00-multi-turn 2026-02-01T09-30-00-multi-turn',
    '<%= config.bin %> <%= command.id %> results/before results/after --json',
    '<%= config.bin %> <%= command.id %> latest --goodput ttft:200 --goodput tpot:30 --metric-percentiles 95',
  ];

  /** Any number of runs. */
  static override readonly strict = false;

  static override readonly args = {
    run: string({
      required: true,
      description:
        'Folder of a kept run, its name, or `latest`, which is the last one with conversations. May be repeated.',
    }),
  };

  static override readonly flags = {
    'results-dir': stringFlag({ description: 'Where runs are kept.', default: 'results' }),
    ...metricFlags,
  };

  async run(): Promise<{ runs: (RunSummary & { folder: string })[] }> {
    const { argv, flags } = await this.parse(Compare);
    const { metricsChoice } = await import('../src/bench/metrics-choice.js');
    const { readRun } = await import('../src/bench/results.js');
    const { renderComparison } = await import('../src/bench/compare-runs.js');
    const { renderRun } = await import('../src/bench/table.js');
    const runs = argv.map((name) => readRun(String(name), flags['results-dir'], metricsChoice(flags)));
    const [first] = runs;
    this.log(
      runs.length === 1 && first
        ? renderRun(first.summary, first.turns, process.stdout.columns)
        : renderComparison(runs),
    );
    return { runs: runs.map(({ folder, summary }) => ({ folder, ...summary })) };
  }
}
