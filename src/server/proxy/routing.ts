// Which P and which D play a turn: where its conversation is at home, else who holds its prompt, else whose turn it is.
import { VllmPdError } from '../../errors.js';
import type { ConversationTable, Home } from './conversations.js';
import { queryCache } from './lookup.js';
import type { ProxyNode } from './node.js';
import type { TurnRequest } from './request.js';

/** A shared system prompt is no reason to send everybody to one node: what counts is most of the prompt. */
const minHeldShare = 0.5;

export class ProxyRouter {
  readonly #prefillNodes: readonly ProxyNode[];
  readonly #decodeNodes: readonly ProxyNode[];
  readonly #conversations: ConversationTable;
  readonly #queryTimeoutMs: number;
  #numPrefillTurns = 0;
  #numDecodeTurns = 0;

  constructor(options: {
    readonly prefillNodes: readonly ProxyNode[];
    readonly decodeNodes: readonly ProxyNode[];
    readonly conversations: ConversationTable;
    readonly queryTimeoutMs: number;
  }) {
    this.#prefillNodes = options.prefillNodes;
    this.#decodeNodes = options.decodeNodes;
    this.#conversations = options.conversations;
    this.#queryTimeoutMs = options.queryTimeoutMs;
  }

  /** `prefill` is null when no prefill node answers: D then prefills by itself. */
  async route(turn: TurnRequest, signal: AbortSignal): Promise<Home> {
    const home = turn.sessionId === null ? null : this.#conversations.homeOf(turn.sessionId);
    const [prefill, decode] = await Promise.all([
      home?.prefill?.healthy
        ? home.prefill
        : this.#choose(turn, this.#prefillNodes, () => this.#numPrefillTurns++, signal),
      home?.decode.healthy
        ? home.decode
        : this.#choose(turn, this.#decodeNodes, () => this.#numDecodeTurns++, signal),
    ]);
    // With every D in doubt one is tried anyway: it may be back, and without a D there is no answer.
    const chosen = decode ?? this.#decodeNodes[this.#numDecodeTurns++ % this.#decodeNodes.length];
    if (!chosen) throw new VllmPdError('NODE_UNREACHABLE', 'This proxy has no decode node.');
    const route = { prefill, decode: chosen };
    if (turn.sessionId !== null) this.#conversations.settle(turn.sessionId, route);
    return route;
  }

  /** A healthy node of the role that was not tried yet, and that suits. */
  another(
    role: 'prefill' | 'decode',
    tried: ReadonlySet<ProxyNode>,
    suits: (node: ProxyNode) => boolean = () => true,
  ): ProxyNode | null {
    const nodes = role === 'prefill' ? this.#prefillNodes : this.#decodeNodes;
    return nodes.find((node) => node.healthy && !tried.has(node) && suits(node)) ?? null;
  }

  async #choose(
    turn: TurnRequest,
    nodes: readonly ProxyNode[],
    nextTurn: () => number,
    signal: AbortSignal,
  ): Promise<ProxyNode | null> {
    const healthy = nodes.filter((node) => node.healthy);
    if (healthy.length > 1 && turn.sessionId === null) {
      const askable = healthy.filter((node) => node.answersCacheQueries);
      const holder = await this.#longestPrefix(turn, askable, signal);
      if (holder) return holder;
    }
    return healthy[nextTurn() % healthy.length] ?? null;
  }

  async #longestPrefix(
    turn: TurnRequest,
    nodes: readonly ProxyNode[],
    signal: AbortSignal,
  ): Promise<ProxyNode | null> {
    const options = { queryTimeoutMs: this.#queryTimeoutMs, lease: false };
    const answers = await Promise.all(nodes.map((node) => queryCache(turn, node, options, signal)));
    let best: { readonly node: ProxyNode; readonly numTokens: number } | null = null;
    for (const [i, answer] of answers.entries()) {
      if (!answer || answer.num_tokens < minHeldShare * answer.num_prompt_tokens) continue;
      if (!best || answer.num_tokens > best.numTokens)
        best = { node: nodes[i]!, numTokens: answer.num_tokens };
    }
    return best?.node ?? null;
  }
}
