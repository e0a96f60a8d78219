// One turn through the proxy: what does D hold → P prefills → D decodes, streamed straight through.
import type { ServerResponse } from 'node:http';
import type { FirstToken } from '../../config.js';
import { VllmPdError } from '../../errors.js';
import type { KvTransferParams } from '../../wire.js';
import { SseWriter } from '../sse.js';
import type { ConversationTable } from './conversations.js';
import { historyAfter } from './history.js';
import { type LookupOptions, lookUp, type Offer, release } from './lookup.js';
import type { ProxyMetrics } from './metrics.js';
import type { ProxyNode } from './node.js';
import { firstTokenOutcome, type PrefillOutcome, prefillOutcome } from './prefill-outcome.js';
import {
  beginEvents,
  endEvents,
  isEventStream,
  relayAsStream,
  relayEvents,
  relayWhole,
  type TakeTicket,
} from './relay.js';
import { withReachableHost } from './remote-host.js';
import {
  decodeBody,
  firstTokenBody,
  isBatch,
  isForOneNode,
  prefillBody,
  type TurnRequest,
  withTokenIds,
} from './request.js';
import type { ProxyRouter, TurnRoute } from './routing.js';
import { unstreamed } from './whole-answer.js';

/** What P left for D, and where. */
interface HandOver {
  readonly node: ProxyNode;
  readonly params: KvTransferParams;
}

export class TurnPlayer {
  readonly #router: ProxyRouter;
  readonly #conversations: ConversationTable;
  readonly #metrics: ProxyMetrics;
  readonly #lookup: LookupOptions;
  readonly #firstToken: FirstToken;
  readonly #keepsTicketsOf: (node: ProxyNode) => boolean;
  readonly #unstreamedDecode: boolean;

  constructor(options: {
    readonly router: ProxyRouter;
    readonly conversations: ConversationTable;
    readonly metrics: ProxyMetrics;
    readonly lookup: LookupOptions;
    readonly firstToken: FirstToken;
    /** Tickets of these stay here for the next turn, instead of going to the client. */
    readonly keepsTicketsOf: (node: ProxyNode) => boolean;
    /** Nodes whose streams carry no tickets are asked for whole answers, so that theirs can be had. */
    readonly unstreamedDecode: boolean;
  }) {
    this.#router = options.router;
    this.#conversations = options.conversations;
    this.#metrics = options.metrics;
    this.#lookup = options.lookup;
    this.#firstToken = options.firstToken;
    this.#keepsTicketsOf = options.keepsTicketsOf;
    this.#unstreamedDecode = options.unstreamedDecode;
  }

  /** Throws NODE_UNREACHABLE when no decode node answers, the signal's reason when the client has gone. */
  async play(turn: TurnRequest, res: ServerResponse, signal: AbortSignal): Promise<void> {
    const route = await this.#router.route(turn, signal);
    try {
      await this.#playOn(route, turn, res, signal);
    } finally {
      route.end();
    }
  }

  async #playOn(
    { prefill, decode, endPrefill }: TurnRoute,
    turn: TurnRequest,
    res: ServerResponse,
    signal: AbortSignal,
  ): Promise<void> {
    if (turn.clientKvTransferParams) {
      await this.#forward(turn, turn.clientKvTransferParams, prefill, decode, res, signal);
      return;
    }
    let handOver: HandOver | null = null;
    let encodedTurn = turn;
    if (prefill && !isBatch(turn) && !isForOneNode(turn)) {
      const offer = await lookUp(turn, decode, this.#lookup, this.#conversations, this.#metrics, signal);
      encodedTurn = withTokenIds(turn, offer.promptTokenIds);
      const outcome = await this.#prefill(encodedTurn, prefill, decode, offer, signal);
      if (outcome.kind === 'refused' || outcome.kind === 'complete') {
        relayWhole(res, outcome.response, turn.requestId);
        return;
      }
      if (outcome.kind === 'done') {
        const { begin, params } = outcome;
        if (begin) beginEvents(res, begin, turn.requestId, begin.events);
        encodedTurn = withTokenIds(encodedTurn, outcome.promptTokenIds);
        if (params) handOver = { node: outcome.node, params };
      }
    }
    endPrefill();
    await this.#decode(encodedTurn, decode, handOver, res, signal);
  }

  async #prefill(
    turn: TurnRequest,
    first: ProxyNode,
    decode: ProxyNode,
    offer: Offer,
    signal: AbortSignal,
  ): Promise<PrefillOutcome> {
    const tried = new Set<ProxyNode>();
    let outcome: PrefillOutcome = { kind: 'failed' };
    try {
      for (let node: ProxyNode | null = first; node; node = this.#router.another('prefill', tried)) {
        tried.add(node);
        const givesFirstToken =
          this.#firstToken === 'prefill' && node.passesFirstTokens && decode.passesFirstTokens;
        outcome = await this.#prefillOn(node, turn, offer.params, givesFirstToken, signal);
        // A full queue is no fault of the request: another node may have room.
        const isFull = outcome.kind === 'refused' && outcome.response.status === 429;
        if (outcome.kind !== 'failed' && !isFull) break;
        this.#metrics.hopFailed('prefill', node.url);
      }
      return outcome;
    } finally {
      const isUsed = outcome.kind === 'done' || outcome.kind === 'complete';
      if (!isUsed && offer.hold) release(offer.hold.node, offer.hold.id);
    }
  }

  async #prefillOn(
    node: ProxyNode,
    turn: TurnRequest,
    params: KvTransferParams,
    givesFirstToken: boolean,
    signal: AbortSignal,
  ): Promise<PrefillOutcome> {
    const startedMs = performance.now();
    try {
      const { path, headers } = turn;
      const body = givesFirstToken ? firstTokenBody(turn, params) : prefillBody(turn, params);
      const response = await node.fetch({ method: 'POST', path, body, headers, signal });
      this.#metrics.hop('prefill', node.url, performance.now() - startedMs);
      if (response.status < 300) {
        return givesFirstToken ? firstTokenOutcome(response, node) : prefillOutcome(response, node);
      }
      // 501 says that no node of this kind can do what was asked.
      const isNodeAtFault = response.status >= 500 && response.status !== 501;
      return isNodeAtFault ? { kind: 'failed' } : { kind: 'refused', response };
    } catch (error) {
      if (!isUnreachable(error)) throw error;
      return { kind: 'failed' };
    }
  }

  async #decode(
    turn: TurnRequest,
    first: ProxyNode,
    handOver: HandOver | null,
    res: ServerResponse,
    signal: AbortSignal,
  ): Promise<void> {
    const tried = new Set<ProxyNode>();
    let isTaken = false;
    try {
      for (let node: ProxyNode | null = first; node; ) {
        tried.add(node);
        const next = this.#router.another('decode', tried, (other) => canGoOn(other, handOver));
        try {
          const params = handOver && paramsFor(node, handOver.params);
          isTaken = await this.#decodeOn(node, turn, params, res, signal, next !== null);
          // The conversation's KV is here now.
          if (turn.sessionId !== null && node !== first) {
            this.#conversations.settle(turn.sessionId, { prefill: handOver?.node ?? null, decode: node });
          }
          return;
        } catch (error) {
          // Nothing of this node's has been passed on: another one may go on from where P, or the client, left off.
          if (!isUnreachable(error)) throw error;
          if (!next && res.headersSent) {
            await new SseWriter(res).fail(error);
            return;
          }
          if (!next) throw error;
          this.#metrics.hopFailed('decode', node.url);
          node = next;
        }
      }
    } finally {
      const id = handOver?.params.remote_request_id;
      if (handOver && id && !isTaken) release(handOver.node, id);
    }
  }

  /** True if D took the request, and with it what P holds. `isReplaceable`: its 503 is not the last word. */
  async #decodeOn(
    node: ProxyNode,
    turn: TurnRequest,
    params: KvTransferParams | null,
    res: ServerResponse,
    signal: AbortSignal,
    isReplaceable: boolean,
  ): Promise<boolean> {
    const startedMs = performance.now();
    const { path, headers, requestId } = turn;
    const takeTicket = this.#keepsTicketsOf(node) ? this.#ticketTaker(node, turn) : null;
    const isUnstreamed = takeTicket !== null && this.#asksWhole(turn, node);
    const asked = decodeBody(turn, params);
    const response = await node.request({
      method: 'POST',
      path,
      body: isUnstreamed ? unstreamed(asked) : asked,
      headers,
      signal,
    });
    if ((response.status === 503 || response.status === 429) && isReplaceable) {
      await node.read(response, signal);
      throw new VllmPdError('NODE_UNREACHABLE', `The decode node ${node.url} takes no requests.`);
    }
    this.#metrics.hop('decode_first_byte', node.url, performance.now() - startedMs);
    if (isUnstreamed && response.status < 300) {
      await relayAsStream(res, await node.read(response, signal), requestId, takeTicket, asked);
    } else if (isEventStream(response)) {
      const end = await relayEvents(res, response, node, requestId, signal, takeTicket);
      if (end === 'broken') this.#metrics.hopFailed('decode', node.url);
    } else if (res.headersSent) {
      await endEvents(res, await node.read(response, signal));
    } else {
      relayWhole(res, await node.read(response, signal), requestId, takeTicket);
    }
    this.#metrics.hop('decode', node.url, performance.now() - startedMs);
    return response.status < 300;
  }

  /** A streamed answer whose ticket would be lost. */
  #asksWhole({ body, sessionId }: TurnRequest, node: ProxyNode): boolean {
    return this.#unstreamedDecode && body.stream === true && sessionId !== null && !node.passesFirstTokens;
  }

  #ticketTaker(node: ProxyNode, turn: TurnRequest): TakeTicket {
    const { sessionId } = turn;
    return (granted, answer) => {
      const params = withReachableHost(granted, node.url);
      const history = answer && { history: historyAfter(turn, answer) };
      if (sessionId !== null) this.#conversations.keepTicket(sessionId, { node, params, ...history });
      // Nobody will ever ask for it.
      else if (params.remote_request_id) release(node, params.remote_request_id);
    };
  }

  /** A trusted client that does the proxy's work itself: the request goes to the one node that it speaks to. */
  async #forward(
    turn: TurnRequest,
    params: KvTransferParams,
    prefill: ProxyNode | null,
    decode: ProxyNode,
    res: ServerResponse,
    signal: AbortSignal,
  ): Promise<void> {
    const node = params.do_remote_decode && prefill ? prefill : decode;
    await this.#decodeOn(node, turn, params, res, signal, false);
  }
}

function isUnreachable(error: unknown): boolean {
  return error instanceof VllmPdError && error.code === 'NODE_UNREACHABLE';
}

/** Who has not got P's first token told must be able to go on behind what the client has got. */
function canGoOn(node: ProxyNode, handOver: HandOver | null): boolean {
  return node.passesFirstTokens || !handOver?.params.remote_first_token?.streamed;
}

/** Without the first token for a node that does not know it: that one samples it once more. */
function paramsFor(node: ProxyNode, params: KvTransferParams): KvTransferParams {
  if (node.passesFirstTokens || !params.remote_first_token) return params;
  const { remote_first_token: _, ...rest } = params;
  return rest;
}
