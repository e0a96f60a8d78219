// What became of a turn on P, read from its answer: what it left for D, and what the client is to get at once.
import type { KvTransferParams } from '../../wire.js';
import { readFirstTokenAnswer } from './first-token.js';
import type { ProxyNode, WholeResponse } from './node.js';
import { withReachableHost } from './remote-host.js';

interface Prefilled {
  readonly kind: 'done';
  readonly node: ProxyNode;
  /** Null when P ended the request without holding anything. */
  readonly params: KvTransferParams | null;
  /** The prompt as P encoded it, if it was asked. */
  readonly promptTokenIds: readonly number[] | null;
  /** What the client is to get at once: the first token, as P streams it. */
  readonly begin: { readonly headers: WholeResponse['headers']; readonly events: Buffer } | null;
}

export type PrefillOutcome =
  | Prefilled
  /** The answer's first token was its last; the client gets P's answer. */
  | { readonly kind: 'complete'; readonly response: WholeResponse }
  /** The request itself is at fault; the client gets P's answer. */
  | { readonly kind: 'refused'; readonly response: WholeResponse }
  /** No prefill node did it: D prefills by itself. */
  | { readonly kind: 'failed' };

/** An answer that cannot be understood is a failure: the client has got nothing of it. */
export function firstTokenOutcome(response: WholeResponse, node: ProxyNode): PrefillOutcome {
  try {
    const answer = readFirstTokenAnswer(response);
    if (answer.kind === 'complete') return { kind: 'complete', response };
    const { kv_transfer_params: held, prompt_token_ids: promptTokenIds } = answer.handOver;
    const params = withReachableHost(held, node.url);
    const token = params.remote_first_token;
    if (!answer.events || !token) return { kind: 'done', node, params, promptTokenIds, begin: null };
    return {
      kind: 'done',
      node,
      params: { ...params, remote_first_token: { ...token, streamed: true } },
      promptTokenIds,
      begin: { headers: response.headers, events: answer.events },
    };
  } catch {
    return { kind: 'failed' };
  }
}

/** As vLLM's P answers. What cannot be understood hands nothing over. */
export function prefillOutcome(response: WholeResponse, node: ProxyNode): PrefillOutcome {
  try {
    const { kv_transfer_params, choices, prompt_token_ids } = JSON.parse(response.bytes.toString('utf8')) as {
      readonly kv_transfer_params?: KvTransferParams | null;
      /** A chat's; completions have one list a choice. */
      readonly prompt_token_ids?: readonly number[] | null;
      readonly choices?: readonly { readonly prompt_token_ids?: readonly number[] | null }[];
    };
    const params = kv_transfer_params ? withReachableHost(kv_transfer_params, node.url) : null;
    const promptTokenIds = prompt_token_ids ?? choices?.[0]?.prompt_token_ids ?? null;
    return { kind: 'done', node, params, promptTokenIds, begin: null };
  } catch {
    return { kind: 'done', node, params: null, promptTokenIds: null, begin: null };
  }
}
