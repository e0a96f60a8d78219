// What P says about a prompt's caching, signed with the shared key: D repeats it to clients, who could have written it.
import { createHash, createHmac } from 'node:crypto';
import type { KvTransferParams } from '../wire.js';
import { isSameProof } from './authentication.js';

type Claims = Pick<
  KvTransferParams,
  'remote_engine_id' | 'remote_request_id' | 'remote_prefill_cached_tokens' | 'remote_prefill_stats'
>;

/** Of these claims about this prompt, in hex. Whatever passes them on may reorder the fields of an object. */
export function macOfClaims(key: string, claims: Claims, promptTokenIds: readonly number[]): string {
  const { remote_engine_id, remote_request_id, remote_prefill_cached_tokens, remote_prefill_stats } = claims;
  const prompt = createHash('sha256').update(Uint32Array.from(promptTokenIds)).digest('hex');
  const signed = [
    remote_engine_id ?? null,
    remote_request_id ?? null,
    remote_prefill_cached_tokens ?? null,
    remote_prefill_stats ?? null,
    prompt,
  ];
  return createHmac('sha256', key)
    .update('vllm-pd-kv claims ')
    .update(JSON.stringify(signed, inOrder))
    .digest('hex');
}

/** Without claims that no node of this key made about this prompt. A node without a key believes what it is told. */
export function withoutForgedClaims(
  key: string | null,
  params: KvTransferParams | null,
  promptTokenIds: readonly number[],
): KvTransferParams | null {
  if (key === null || params === null) return params;
  const { remote_prefill_cached_tokens, remote_prefill_stats, remote_claims_mac, ...rest } = params;
  if (remote_prefill_cached_tokens === undefined && remote_prefill_stats === undefined) return params;
  const expected = macOfClaims(key, params, promptTokenIds);
  return isSameProof(remote_claims_mac ?? '', expected) ? params : rest;
}

function inOrder(_: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}
