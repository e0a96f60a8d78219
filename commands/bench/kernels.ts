// vllm-pd bench kernels: the engine's parts, each beside what this machine could do at most.
import path from 'node:path';
import { boolean, integer, string } from '@oclif/core/flags';
import { BaseCommand } from '../../src/cli/base-command.js';
import { onInterrupt } from '../../src/cli/interrupt.js';
import type { KernelRun } from '../../src/micro-bench/kernel-bench.js';

export default class BenchKernels extends BaseCommand {
  static override readonly summary: string =
    'Measure kernels, transfers and the control plane, each against its limit on this machine.';

  static override readonly description: string =
    'Every row is measured in turns with its limit (multiply-adds in registers, reading or copying memory, a raw ' +
    'socket, a bare HTTP server), a few rows to a process; the ratio of the two is what to look at, absolute figures ' +
    'depend on what else the machine does. What is asked of a row stands behind it, with ✓ or ✗. The run is kept under results/.';

  static override readonly examples: string[] = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --filter transfer --time 3000',
    '<%= config.bin %> <%= command.id %> --all',
    "<%= config.bin %> <%= command.id %> --filter 'attention/decode' --json",
  ];

  static override readonly flags = {
    filter: string({
      char: 'f',
      description: "Only rows whose id contains this; an id is 'family/name x<threads>'.",
      default: '',
      defaultHelp: async () => 'rows that stand for all, in two minutes',
    }),
    all: boolean({
      char: 'a',
      description: 'All rows: every shape of the model, every number type and size.',
      exclusive: ['filter'],
    }),
    time: integer({
      char: 't',
      description: 'Milliseconds for each row, its limit included.',
      default: 400,
      min: 1,
      max: 600_000,
    }),
    model: string({
      description: 'Whose shapes and forward pass: an embedded model or a folder.',
      default: 'default',
      helpValue: 'default|tiny|FOLDER',
    }),
    'results-dir': string({
      description: 'Where the run is kept.',
      default: 'results',
      exclusive: ['no-keep'],
    }),
    'no-keep': boolean({ description: 'Do not keep the run.' }),
  };

  async run(): Promise<KernelRun> {
    const { flags } = await this.parse(BenchKernels);
    const { runKernelBench } = await import('../../src/micro-bench/kernel-bench.js');
    const { renderKernelRows } = await import('../../src/micro-bench/kernel-table.js');
    const controller = new AbortController();
    const offInterrupt = onInterrupt(() => controller.abort());
    const progress = await this.startProgress('rows', 1);
    try {
      const { summary, keptAt } = await runKernelBench({
        command: ['vllm-pd bench kernels', ...this.argv].join(' '),
        model: flags.model,
        choice: { filter: flags.filter, all: flags.all },
        timeMs: flags.time,
        resultsDir: flags['no-keep'] ? null : flags['results-dir'],
        signal: controller.signal,
        onRow: (numDone, numRows, next) => {
          progress.setTotal(numRows);
          progress.update(numDone, next);
        },
      });
      progress.stop();
      const { run, rows } = summary;
      this.log(renderKernelRows(rows));
      this.log(`\n${run.host.cpu}, ${run.isa}; ${run.duration_s} s${run.complete ? '' : ' (incomplete)'}`);
      if (keptAt !== null) this.log(`Kept in ${path.relative('', keptAt) || keptAt}`);
      return summary;
    } finally {
      progress.stop();
      offInterrupt();
    }
  }
}
