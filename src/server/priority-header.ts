// X-Vllm-Priority, vLLM's header for gateways that set a request's priority without parsing its body.
import type { IncomingMessage } from 'node:http';
import { VllmPdError } from '../errors.js';

/** What holds over the body's `priority`; null without such a header. Throws INVALID_ARGUMENT for one that is no integer. */
export function priorityHeader({ headers }: Pick<IncomingMessage, 'headers'>): number | null {
  const value = headers['x-vllm-priority'];
  if (value === undefined) return null;
  const priority = typeof value === 'string' && /^[+-]?\d+$/.test(value.trim()) ? Number(value) : Number.NaN;
  if (Number.isSafeInteger(priority)) return priority;
  const message = `Expected an integer in X-Vllm-Priority but received \`${value}\`.`;
  throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'priority' });
}
