// Structured logs on stderr, so that stdout stays free for tables and --json.
import { destination, type Logger, pino } from 'pino';

export type { Logger };

let isEnding = false;

/**
 * From now on only errors are logged, whatever the level: for a process that was told to end together with its peers,
 * whose silence is then no news.
 */
export function endQuietly(): void {
  isEnding = true;
}

/** `VLLM_PD_LOG_LEVEL` sets the level (default `warn`): trace, debug, info, warn, error, silent. */
export function createLogger(name: string): Logger {
  return pino(
    {
      name,
      level: process.env.VLLM_PD_LOG_LEVEL ?? 'warn',
      hooks: {
        logMethod(args, method, level) {
          if (!isEnding || level >= pino.levels.values.error!) method.apply(this, args);
        },
      },
    },
    destination({ dest: 2, sync: true }),
  );
}
