// Who may use a server: API keys as `Authorization: Bearer …`, compared so that the time taken says nothing.
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { VllmPdError } from '../errors.js';

/** Probes and scrapes go without a key, as with vLLM; every other path needs one, also one that does not exist. */
const publicPaths = new Set(['/health', '/ping', '/load', '/version', '/metrics']);

export class ApiKeys {
  readonly #digests: readonly Buffer[];

  /** With no key at all, everybody may. */
  constructor(keys: readonly string[]) {
    this.#digests = keys.map(digestOf);
  }

  /** Throws UNAUTHORIZED. */
  check(path: string, { authorization = '' }: IncomingHttpHeaders): void {
    if (this.#digests.length === 0 || publicPaths.has(path)) return;
    const [, token = ''] = /^Bearer (.+)$/i.exec(authorization) ?? [];
    const digest = digestOf(token);
    // All of them, so that nobody learns which one came close.
    const isKnown = this.#digests.filter((known) => timingSafeEqual(known, digest)).length > 0;
    if (isKnown) return;
    const received = authorization === '' ? 'none' : 'another one';
    throw new VllmPdError(
      'UNAUTHORIZED',
      `Expected an API key of this server as \`Authorization: Bearer …\` but received ${received}.`,
    );
  }
}

/** Digests have one length, whatever a stranger sends. */
function digestOf(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
