// Structured logs on stderr, so that stdout stays free for tables and --json.
import { destination, type Logger, pino } from 'pino';

export type { Logger };

let isEnding = false;

/**
 * From now on warnings are not logged, unless more than warnings was asked for: for a process that was told to end
 * together with its peers, whose silence is then no news.
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
          const isNews = !isEnding || level >= pino.levels.values.error! || this.isLevelEnabled('info');
          if (isNews) method.apply(this, args);
        },
      },
    },
    destination({ dest: 2, sync: true }),
  );
}
