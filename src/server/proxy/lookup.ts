// Before P: what does D hold of this prompt? Asked each turn (query), or known from the turn before (ticket).
import type { KvLookup, KvTransferMode } from '../../config.js';
import { messageOf } from '../../errors.js';
import { remoteDecodeParams } from '../../kv-transfer/params.js';
import { createLogger } from '../../log.js';
import type { BriefCacheQueryAnswer, KvTransferParams } from '../../wire.js';
import type { ConversationTable } from './conversations.js';
import { goesOn } from './history.js';
import type { ProxyMetrics } from './metrics.js';
import type { ProxyNode, WholeResponse } from './node.js';
import type { Openings } from './openings.js';
import { withReachableHost } from './remote-host.js';
import { cacheQueryBody, type TurnRequest } from './request.js';

const log = createLogger('proxy');

const releaseTimeoutMs = 5000;

/** What P is told. */
export interface Offer {
  readonly params: KvTransferParams;
  /** What D holds because of it; to be released when P never gets to hear of it. */
  readonly hold: { readonly node: ProxyNode; readonly id: string } | null;
  /** The prompt as D encoded it; null when it was not asked. */
  readonly promptTokenIds: readonly number[] | null;
}

const noOffer: Offer = { params: remoteDecodeParams(), hold: null, promptTokenIds: null };

export interface LookupOptions {
  readonly openings: Openings;
  readonly mode: KvTransferMode;
  readonly lookup: KvLookup;
  /** A query that takes longer is given up: the turn goes on without it. */
  readonly queryTimeoutMs: number;
}

export async function lookUp(
  turn: TurnRequest,
  decode: ProxyNode,
  options: LookupOptions,
  conversations: ConversationTable,
  metrics: ProxyMetrics,
  signal: AbortSignal,
): Promise<Offer> {
  if (options.mode === 'uni') return noOffer;
  if (options.lookup === 'ticket' || !decode.answersCacheQueries) {
    return redeemTicket(turn, decode, conversations, metrics);
  }
  if (!options.openings.mayHold(decode, turn)) {
    metrics.lookup('not_asked');
    return noOffer;
  }
  const startedMs = performance.now();
  const answer = await queryCache(turn, decode, { ...options, lease: true }, signal);
  if (!answer && !decode.answersCacheQueries) return redeemTicket(turn, decode, conversations, metrics);
  metrics.hop('query', decode.url, performance.now() - startedMs);
  metrics.lookup(answer === null ? 'failed' : answer.num_tokens > 0 ? 'found' : 'nothing');
  if (answer === null) {
    metrics.hopFailed('query', decode.url);
    return noOffer;
  }
  return {
    params: answer.kv_transfer_params
      ? withReachableHost(answer.kv_transfer_params, decode.url)
      : remoteDecodeParams(true),
    hold: answer.lease ? { node: decode, id: answer.lease.id } : null,
    promptTokenIds: answer.prompt_token_ids ?? null,
  };
}

function redeemTicket(
  turn: TurnRequest,
  decode: ProxyNode,
  conversations: ConversationTable,
  metrics: ProxyMetrics,
): Offer {
  const ticket = turn.sessionId === null ? null : conversations.takeTicket(turn.sessionId);
  // This project's nodes compare each block with the prompt's own.
  const isVerified = ticket?.history === undefined || ticket.node.passesFirstTokens;
  if (ticket && !isVerified && !goesOn(turn, ticket.history)) {
    metrics.lookup('changed');
    if (ticket.params.remote_request_id) release(ticket.node, ticket.params.remote_request_id);
    return noOffer;
  }
  metrics.lookup(ticket ? 'found' : 'nothing');
  if (!ticket || (ticket.node !== decode && !ticket.node.healthy)) return noOffer;
  const id = ticket.params.remote_request_id;
  return { params: ticket.params, hold: id ? { node: ticket.node, id } : null, promptTokenIds: null };
}

/** Null when the node cannot say, in time or at all. Rejects only when the client has gone. */
export async function queryCache(
  turn: TurnRequest,
  node: ProxyNode,
  options: { readonly queryTimeoutMs: number; readonly lease: boolean },
  signal: AbortSignal,
): Promise<BriefCacheQueryAnswer | null> {
  try {
    const response = await node.fetch({
      method: 'POST',
      path: '/v1/cache_query',
      body: cacheQueryBody(turn, options.lease),
      headers: turn.headers,
      signal,
      timeoutMs: options.queryTimeoutMs,
    });
    if (lacksPath(response)) node.lacksCacheQueries();
    if (response.status !== 200) return null;
    return JSON.parse(response.bytes.toString('utf8')) as BriefCacheQueryAnswer;
  } catch (error) {
    signal.throwIfAborted();
    const level = node.mayLeave ? 'debug' : 'warn';
    log[level]({ node: node.url, err: messageOf(error) }, 'cache query failed; the turn goes on without it');
    return null;
  }
}

/** 404 may also be the model's. */
function lacksPath({ status, bytes }: WholeResponse): boolean {
  return status === 404 && !/"param":\s*"model"/.test(bytes.toString('utf8'));
}

/** Tells a node that nobody will come for what it holds. In the background: its leases expire by themselves too. */
export function release(node: ProxyNode, holdId: string): void {
  if (!node.answersCacheQueries) return;
  node
    .fetch({
      method: 'POST',
      path: '/v1/cache_query/release',
      body: { lease_id: holdId },
      timeoutMs: releaseTimeoutMs,
    })
    .then((response) => {
      if (lacksPath(response)) node.lacksCacheQueries();
    })
    .catch((error: unknown) => log.debug({ node: node.url, err: messageOf(error) }, 'could not release'));
}
