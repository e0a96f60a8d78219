// Structured logs on stderr, so that stdout stays free for tables and --json.
import { destination, type Logger, pino } from 'pino';

export type { Logger };

/** `VLLM_PD_LOG_LEVEL` sets the level (default `warn`): trace, debug, info, warn, error, silent. */
export function createLogger(name: string): Logger {
  return pino({ name, level: process.env.VLLM_PD_LOG_LEVEL ?? 'warn' }, destination({ dest: 2, sync: true }));
}
