// What every command shares: --json, --log-level, errors as sentences with exit codes, progress and Ctrl-C.
import { Command } from '@oclif/core/command';
import { ExitError } from '@oclif/core/errors';
import { option } from '@oclif/core/flags';
import { messageOf, VllmPdError } from '../errors.js';
import { type CommandErrorJson, errorJson, printError } from './command-error.js';
import { wasInterrupted } from './interrupt.js';
import { nearest } from './nearest.js';
import { type Progress, startProgress } from './progress.js';

const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;

/**
 * Base of all commands: parse, call the library, return data (printed as JSON with --json).
 * Exit codes: 0 done, 1 failed, 2 bad flags or input, 3 native module, 4 address in use, 5 a node is unreachable or died,
 * 6 a benchmark's own checks do not hold, 130 interrupted.
 */
export abstract class BaseCommand extends Command {
  static override readonly enableJsonFlag = true;

  static override readonly baseFlags = {
    'log-level': option({
      options: logLevels,
      env: 'VLLM_PD_LOG_LEVEL',
      description: 'How much to log on stderr.',
      defaultHelp: async () => 'warn',
      helpGroup: 'GLOBAL',
    })(),
  };

  override async init(): Promise<void> {
    await super.init();
    // The loggers read it when they are made, in this process and in the nodes that it starts.
    const at = this.argv.findIndex((arg) => arg === '--log-level' || arg.startsWith('--log-level='));
    const level = at < 0 ? undefined : (this.argv[at]?.split('=')[1] ?? this.argv[at + 1]);
    if (logLevels.some((known) => known === level)) process.env.VLLM_PD_LOG_LEVEL = level;
  }

  /** A progress bar on stderr; nothing at all when stderr is no terminal or --json was given. */
  protected startProgress(label: string, total: number): Promise<Progress> {
    return startProgress(label, total, process.stderr.isTTY === true && !this.jsonEnabled());
  }

  /** A command's last check. With --json its data stay what is printed; what is wrong goes to stderr beside them. */
  protected endWith(check: () => void): void {
    try {
      check();
    } catch (error) {
      if (!this.jsonEnabled() || !(error instanceof VllmPdError)) throw error;
      process.stderr.write(`Error: ${error.message}\n`);
      process.exitCode = error.exitCode;
    }
  }

  override async catch(error: Error): Promise<never> {
    if (error instanceof ExitError) throw error;
    const failure = this.toErrorJson(error);
    printError(failure, this.jsonEnabled());
    if (failure.error.code === 'INTERNAL' && !this.jsonEnabled()) process.stderr.write(`${error.stack}\n`);
    this.exit(failure.error.exit_code);
    throw error;
  }

  override toErrorJson(error: unknown): CommandErrorJson {
    if (wasInterrupted()) return errorJson('INTERRUPTED', 'Interrupted.', 130);
    if (error instanceof VllmPdError) {
      return {
        error: {
          code: error.code,
          message: error.message,
          param: error.param ?? null,
          suggestions: error.suggestions,
          exit_code: error.exitCode,
        },
      };
    }
    // oclif's own errors (a flag that does not exist, a value that does not parse) carry the code that it would exit with.
    if (error instanceof Error && 'oclif' in error) {
      const message = inOneLine(error.message);
      const meant = this.#flagMeantBy(message);
      const help = `See \`vllm-pd ${this.id?.replaceAll(':', ' ') ?? ''} --help\`.`;
      const suggestions = [...(meant ? [`Did you mean --${meant}?`] : []), help];
      return errorJson('INVALID_ARGUMENT', message, 2, suggestions);
    }
    return errorJson('INTERNAL', messageOf(error), 1);
  }

  #flagMeantBy(message: string): string | null {
    const typed = /^Nonexistent flag: --([\w-]+)/.exec(message)?.[1];
    const { flags, baseFlags } = this.ctor;
    return typed === undefined ? null : nearest(typed, Object.keys({ ...flags, ...baseFlags }));
  }
}

/** `Parsing --port ⏎⇥ Expected … ⏎ See more help with --help` as one line; where to find help is said already. */
function inOneLine(message: string): string {
  return message
    .replace(/\s*See more help with --help\s*$/, '')
    .replace(/^The following errors? occurred:\s+/, '')
    .replace(/^Parsing (\S+)\s+/, '$1: ')
    .replace(/\s*\n\s*/g, ' ')
    .trim();
}
