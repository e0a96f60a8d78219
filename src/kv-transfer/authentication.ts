// Proof that both ends of a side channel know the shared key, without sending it: challenge and response, both ways.
import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';

/** The key of nodes that were given none: they recognise each other, and anybody else may do the same. */
export const openKey = '';

const nonceBytes = 32;

/** 32 bytes that no earlier handshake had, in hex. */
export function newNonce(): string {
  return randomBytes(nonceBytes).toString('hex');
}

/** What both proofs are about: the hello as it was sent (with the reader's nonce) and the owner's nonce. */
export interface Exchange {
  readonly hello: Buffer;
  readonly ownerNonce: string;
}

/**
 * HMAC-SHA256 over the exchange, in hex. Owner and reader prove different things, so that neither can answer with what it
 * was sent; `key` null = no key was given.
 */
export function proofOf(
  who: 'owner' | 'reader',
  key: string | null,
  { hello, ownerNonce }: Exchange,
): string {
  return createHmac('sha256', key ?? openKey)
    .update(`vllm-pd-kv ${who} ${ownerNonce} `)
    .update(createHash('sha256').update(hello).digest())
    .digest('hex');
}

/** In constant time. */
export function isSameProof(received: string, expected: string): boolean {
  const [a, b] = [Buffer.from(received), Buffer.from(expected)];
  return a.length === b.length && timingSafeEqual(a, b);
}
