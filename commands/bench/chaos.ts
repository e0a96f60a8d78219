// vllm-pd bench chaos: turns with faults in between, compared with the same turns undisturbed.
import path from 'node:path';
import { boolean, integer, option, string } from '@oclif/core/flags';
import type { ChaosRun } from '../../src/chaos/chaos-run.js';
import { faultKinds } from '../../src/chaos/fault.js';
import { BaseCommand } from '../../src/cli/base-command.js';
import { onInterrupt } from '../../src/cli/interrupt.js';
import { given } from '../../src/engine-options.js';
import { VllmPdError } from '../../src/errors.js';

const soakModes = ['uni', 'bi', 'ticket'] as const;
const soakTransports = ['shm', 'tcp'] as const;

export default class BenchChaos extends BaseCommand {
  static override readonly summary =
    'Play turns while nodes, connections and the proxy fail, and check every token.';

  static override readonly description =
    'Starts real processes with relays between them, and strikes from a seed: nodes are killed and stopped, connections ' +
    'cut, delayed, broken off, damaged, reordered and swallowed, caches dropped, the proxy restarted, and with --store a store made to lose, damage and refuse blocks, at every step of a turn. A turn that ' +
    'ends with an error is tried again. Ends with exit code 6 when an answer differs from the undisturbed one, a turn ' +
    'never succeeds, a pool is not whole afterwards, or a node keeps files, threads or mapped pools.';

  static override readonly examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --turns 2000 --mode bi --transport tcp',
    '<%= config.bin %> <%= command.id %> --seed 7 --fault kill --fault corrupt',
    '<%= config.bin %> <%= command.id %> --mode bi --store redis',
  ];

  static override readonly flags = {
    turns: integer({
      description: 'Turns of each mode over each transport.',
      default: 100,
      min: 1,
      max: 1_000_000,
    }),
    mode: option({
      options: soakModes,
      multiple: true,
      description: 'Which way KV moves, and how P learns what D holds; may be given several times.',
      defaultHelp: async () => 'all',
    })(),
    transport: option({
      options: soakTransports,
      multiple: true,
      description: 'How blocks are read; may be given several times.',
      defaultHelp: async () => 'all',
    })(),
    fault: option({
      options: faultKinds,
      multiple: true,
      description: 'Kinds of faults; may be given several times.',
      defaultHelp: async () => 'all',
    })(),
    'fault-every': integer({
      description: 'A fault for one turn in so many.',
      default: 2,
      min: 1,
      max: 1_000_000,
    }),
    'num-clients': integer({
      description: 'Conversations played side by side.',
      default: 12,
      min: 1,
      max: 256,
    }),
    seed: integer({ description: 'Seed of turns and faults.', default: 1, min: 0, max: 2 ** 31 - 1 }),
    store: option({
      options: ['none', 'directory', 'redis'] as const,
      description:
        'Store that the nodes share, and that faults strike too; redis starts a server of its own.',
      default: 'none' as const,
    })(),
    model: string({ description: 'A built-in model or a Hugging Face folder.', default: 'tiny' }),
    'time-limit': integer({ description: 'No turn is begun after so many seconds.', min: 1, max: 1_000_000 }),
    'results-dir': string({
      description: 'Where the run is kept.',
      default: 'results',
      exclusive: ['no-keep'],
    }),
    'no-keep': boolean({ description: 'Do not keep the run.' }),
  };

  async run(): Promise<ChaosRun> {
    const { flags } = await this.parse(BenchChaos);
    const storeFault = flags.store === 'none' && flags.fault?.find((kind) => kind.startsWith('store_'));
    if (storeFault) {
      const message = `--fault ${storeFault} strikes a store, but the nodes have none.`;
      throw new VllmPdError('INVALID_ARGUMENT', message, {
        param: 'fault',
        suggestions: ['Give them one: --store directory.'],
      });
    }
    // What fails is wanted here; the nodes' and the proxy's logs would be full of it.
    process.env.VLLM_PD_LOG_LEVEL ??= 'silent';
    const { failUnlessClean, runChaos } = await import('../../src/chaos/chaos-bench.js');
    const { renderChaos } = await import('../../src/chaos/chaos-table.js');
    const controller = new AbortController();
    const offInterrupt = onInterrupt(() => controller.abort());
    const progress = await this.startProgress('turns', 1);
    try {
      const { run, keptAt } = await runChaos({
        command: ['vllm-pd bench chaos', ...this.argv].join(' '),
        modes: flags.mode ?? soakModes,
        transports: flags.transport ?? soakTransports,
        kinds: flags.fault ?? faultKinds,
        numTurns: flags.turns,
        seed: flags.seed,
        numClients: flags['num-clients'],
        faultEvery: flags['fault-every'],
        store: flags.store,
        engine: given({ model: flags.model }),
        timeLimitMs: flags['time-limit'] === undefined ? null : flags['time-limit'] * 1000,
        resultsDir: flags['no-keep'] ? null : flags['results-dir'],
        signal: controller.signal,
        onTurn: (name, numDone, numTurns) => {
          progress.setTotal(numTurns);
          progress.update(numDone, name);
        },
      });
      progress.stop();
      this.log(renderChaos(run));
      if (keptAt !== null) this.log(`\nKept in ${path.relative('', keptAt) || keptAt}`);
      if (!controller.signal.aborted) this.endWith(() => failUnlessClean(run));
      return run;
    } finally {
      progress.stop();
      offInterrupt();
    }
  }
}
