// --api-key and its environment variable: what clients prove themselves with.
import { VllmPdError } from '../errors.js';

/** The keys given as flags, else those in VLLM_PD_API_KEY. Throws INVALID_ARGUMENT for one that no header can carry. */
export function apiKeysOf(given: readonly string[] | undefined): readonly string[] {
  const keys = given ?? (process.env.VLLM_PD_API_KEY ?? '').split(',').filter((key) => key !== '');
  if (keys.every((key) => /^[\x21-\x2b\x2d-\x7e]+$/.test(key))) return keys;
  const message =
    'Expected API keys of printable characters without spaces and commas but received another one.';
  throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'api-key' });
}
