// vllm-pd bench multi-turn: what conversations cost with KV moving one way and both ways.
import path from 'node:path';
import { boolean, integer, option, string } from '@oclif/core/flags';
import type { InferredFlags } from '@oclif/core/interfaces';
import type { Forecast } from '../../src/bench/forecast/forecast.js';
import { hidePasswords } from '../../src/bench/hide-passwords.js';
import type { BenchName } from '../../src/bench/run-info.js';
import type { RunSummary } from '../../src/bench/summary.js';
import type { BenchNodes } from '../../src/bench/targets.js';
import type { TurnRecord } from '../../src/bench/turn-record.js';
import type { Workload } from '../../src/bench/workload.js';
import { BaseCommand } from '../../src/cli/base-command.js';
import { engineFlags, engineOptions } from '../../src/cli/engine-flags.js';
import { onInterrupt } from '../../src/cli/interrupt.js';
import { metricFlags } from '../../src/cli/metric-flags.js';
import { nodeCountFlags, routingFlags } from '../../src/cli/node-flags.js';
import type { Progress } from '../../src/cli/progress.js';
import { givenWorkloadFlags, workloadFlag, workloadFlags } from '../../src/cli/workload-flags.js';
import type { KvTransferMode } from '../../src/config.js';
import { defaults, type EngineOptions, given } from '../../src/engine-options.js';
import { VllmPdError } from '../../src/errors.js';

const { 'kv-transfer': _mode, seed: _samplingSeed, ...nodeFlags } = engineFlags;

export default class BenchMultiTurn extends BaseCommand {
  static override readonly summary: string =
    'Play conversations with KV moving P→D only (uni) and both ways (bi).';

  static override readonly description: string =
    'Starts nodes of its own for each mode (or uses a running proxy), plays the same conversations on both, turn by ' +
    'turn, and shows how many prompt tokens were computed again and why, how much KV moved, and how long the first ' +
    'token took. The run is kept under results/. Ends with exit code 6 when one of its own checks does not hold.';

  static override readonly examples: string[] = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --workload smoke --model tiny --json',
    '<%= config.bin %> <%= command.id %> --workload reasoning --num-conversations 1 --mode bi',
    '<%= config.bin %> <%= command.id %> --workload conversation_trace.jsonl --scale 0.05 --num-conversations 8',
    '<%= config.bin %> <%= command.id %> --workload conversation_trace.jsonl --dry-run --model llama-3.1-8b --num-blocks 40000',
    '<%= config.bin %> <%= command.id %> --url http://127.0.0.1:8000 --workload chats.json',
  ];

  static override readonly flags = {
    workload: workloadFlag('multi-turn'),
    mode: option({
      options: ['uni', 'bi', 'both'] as const,
      description: 'Which way KV may move; both = one after the other, wave by wave, on nodes of their own.',
      defaultHelp: async () => 'both, or what the proxy at --url does',
    })(),
    url: string({ description: 'A running proxy to measure instead of nodes of its own.', helpValue: 'URL' }),
    'dry-run': boolean({
      description:
        'Play nothing: show what would be played, what reuse could save of it and of the whole dataset, and how much KV ' +
        'that moves. --model may be the name of a published shape, such as qwen3-4b.',
      exclusive: ['url'],
    }),
    ...workloadFlags,
    ...metricFlags,
    timeout: integer({ description: 'Limit of one turn, in seconds.', default: 300, min: 1, max: 86_400 }),
    'results-dir': string({
      description: 'Where the run is kept.',
      default: 'results',
      exclusive: ['no-keep'],
    }),
    'no-keep': boolean({ description: 'Do not keep the run.' }),
    ...nodeCountFlags,
    ...routingFlags,
    ...nodeFlags,
  };

  protected readonly bench: BenchName = 'multi-turn';

  async run(): Promise<RunSummary | Forecast> {
    const { flags } = await this.parse(this.ctor as typeof BenchMultiTurn);
    const { readWorkload } = await import('../../src/bench/workload.js');
    const { overrideWorkload } = await import('../../src/bench/workload-overrides.js');
    const workload = overrideWorkload(readWorkload(flags.workload, flags.filetype), {
      seed: flags.seed,
      numClients: flags['num-clients'],
      numConversations: flags['num-conversations'],
      numTurns: flags['num-turns'],
      promptTokens: flags['prompt-tokens'],
      outputTokens: flags['output-tokens'],
      prefixTokens: flags['prefix-tokens'],
      minTurns: flags['min-turns'],
      maxPromptTokens: flags['max-prompt-tokens'],
      maxRows: flags['max-rows'],
      scale: flags.scale,
      requestRate: flags['request-rate'],
      burstiness: flags.burstiness,
      timeScale: flags['time-scale'],
      delayMs: flags['delay-ms'],
    });
    return flags['dry-run'] ? this.#forecast(workload, flags) : this.#play(workload, flags);
  }

  /** Without a node. */
  async #forecast(workload: Workload, flags: Flags): Promise<Forecast> {
    const { forecast } = await import('../../src/bench/forecast/forecast.js');
    const { renderForecast } = await import('../../src/bench/forecast/forecast-table.js');
    const { openPromptMeter } = await import('../../src/model/prompt-meter.js');
    const engine = engineOptions({ ...flags, seed: undefined });
    const { 'kv-cache-dtype': kvCacheDtype = 'auto', backend } = flags;
    const meter = await openPromptMeter(flags.model ?? 'default', kvCacheDtype, backend);
    const result = await forecast({ workload, engine, limit: flags.limit ?? null, meter, kv: meter.kv });
    this.log(renderForecast(result));
    return result;
  }

  async #play(workload: Workload, flags: Flags): Promise<RunSummary> {
    const { runBench } = await import('../../src/bench/bench.js');
    const { failIfBroken } = await import('../../src/bench/checks.js');
    const { renderRun } = await import('../../src/bench/table.js');
    const { metricsChoice } = await import('../../src/bench/metrics-choice.js');
    // Here --seed is the workload's; answers are greedy or carry the workload's sampling seed.
    const chosen = engineOptions({ ...flags, seed: undefined });
    const nodes = given<BenchNodes>({
      prefill: flags.prefill,
      decode: flags.decode,
      prefillRouting: flags['prefill-routing'],
      decodeRouting: flags['decode-routing'],
    });
    checkUrlFlags(flags.url, flags.mode, chosen, nodes);
    const { chooseBackendFor } = await import('../../src/model/choose-backend.js');
    // Chosen here, so that what is kept says what ran.
    const engine = flags.url
      ? chosen
      : { ...chosen, backend: await chooseBackendFor(chosen.model ?? defaults.model, chosen) };
    const controller = new AbortController();
    const offInterrupt = onInterrupt(() => controller.abort());
    const progress = await this.startProgress('turns', 1);
    try {
      const { summary, turns, keptAt } = await runBench({
        bench: this.bench,
        command: hidePasswords(
          ['vllm-pd', ...(this.id?.split(':') ?? []), ...this.argv.map(quoted)].join(' '),
        ),
        workload,
        overrides: givenWorkloadFlags(flags),
        modes: modesOf(flags.mode, flags.url),
        url: flags.url ?? null,
        engine,
        nodes,
        limit: flags.limit ?? null,
        timeoutMs: flags.timeout * 1000,
        resultsDir: flags['no-keep'] ? null : flags['results-dir'],
        metrics: metricsChoice(flags),
        signal: controller.signal,
        ...reporter(progress),
      });
      progress.stop();
      this.log(renderRun(summary, turns, process.stdout.columns));
      if (keptAt !== null) this.log(`\nKept in ${path.relative('', keptAt) || keptAt}`);
      if (!controller.signal.aborted) this.endWith(() => failIfBroken(summary.run.checks, keptAt));
      return summary;
    } finally {
      progress.stop();
      offInterrupt();
    }
  }
}

type Flags = InferredFlags<typeof BenchMultiTurn.flags>;

type ModeFlag = 'uni' | 'bi' | 'both' | undefined;

/** Null = whatever the proxy does. */
function modesOf(mode: ModeFlag, url: string | undefined): readonly KvTransferMode[] | null {
  if (mode === 'uni' || mode === 'bi') return [mode];
  return url === undefined ? ['uni', 'bi'] : null;
}

/** A running proxy has its mode and its engines' settings already. */
function checkUrlFlags(
  url: string | undefined,
  mode: ModeFlag,
  engine: EngineOptions,
  nodes: BenchNodes,
): void {
  if (url === undefined) return;
  if (mode === 'both') {
    const message =
      'Expected --mode uni or bi with --url: a proxy runs in one mode. --mode both starts nodes of its own.';
    throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'mode' });
  }
  const { cache = {}, scheduler = {}, kvTransfer = {}, ...others } = engine;
  if ([cache, scheduler, kvTransfer, others, nodes].every((group) => Object.keys(group).length === 0)) return;
  throw new VllmPdError(
    'INVALID_ARGUMENT',
    'Expected no model, cache, scheduler, KV or node flags with --url: its nodes run already.',
    {
      param: 'url',
    },
  );
}

/** Phases and turns on one bar; how long it will take is told from the pace of the turns. */
function reporter(progress: Progress) {
  let played = 0;
  let firstAt = 0;
  return {
    onPhase: (phase: string) => progress.update(played, phase),
    onTurn: (record: TurnRecord, numDone: number, numTurns: number) => {
      played = numDone;
      if (numDone === 1) firstAt = performance.now();
      const pace = (performance.now() - firstAt) / 1000 / (numDone - 1);
      const left = numDone === 1 ? '' : `, ${Math.ceil(pace * (numTurns - numDone))} s left`;
      progress.setTotal(numTurns);
      progress.update(numDone, `${record.mode} ${record.conversation_id} turn ${record.turn}${left}`);
    },
  };
}

function quoted(argument: string): string {
  return /^[\w@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`;
}
