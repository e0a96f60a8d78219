// Which P and which D play a turn, each by the routing policy of its role.
import { VllmPdError } from '../../errors.js';
import type { ConversationTable, Home } from './conversations.js';
import type { ProxyMetrics } from './metrics.js';
import type { ProxyNode } from './node.js';
import type { Choice, NodeChooser } from './node-chooser.js';
import type { TurnRequest } from './request.js';

/** `prefill` is null when no prefill node answers: D then prefills by itself. */
export interface TurnRoute extends Home {
  /** P has nothing more to do with the turn. */
  readonly endPrefill: () => void;
  /** The turn is over. Both are idempotent. */
  readonly end: () => void;
}

export class ProxyRouter {
  readonly #choosers: Readonly<Record<'prefill' | 'decode', NodeChooser>>;
  readonly #conversations: ConversationTable;
  readonly #metrics: ProxyMetrics;

  constructor(options: {
    readonly prefill: NodeChooser;
    readonly decode: NodeChooser;
    readonly conversations: ConversationTable;
    readonly metrics: ProxyMetrics;
  }) {
    this.#choosers = { prefill: options.prefill, decode: options.decode };
    this.#conversations = options.conversations;
    this.#metrics = options.metrics;
  }

  /** The turn counts as load of both nodes until it is ended. Throws NODE_UNREACHABLE when there is no decode node. */
  async route(turn: TurnRequest, signal: AbortSignal): Promise<TurnRoute> {
    const home = turn.sessionId === null ? null : this.#conversations.homeOf(turn.sessionId);
    const ends: (() => void)[] = [];
    // Both to their end, whatever becomes of the other, so that nothing is counted afterwards.
    const [prefill, decode] = await Promise.allSettled([
      this.#choose('prefill', turn, home?.prefill ?? null, ends, signal),
      this.#choose('decode', turn, home?.decode ?? null, ends, signal),
    ]);
    const end = () => {
      for (const endOne of ends) endOne();
    };
    try {
      if (prefill.status === 'rejected') throw prefill.reason;
      if (decode.status === 'rejected') throw decode.reason;
      // With every D in doubt one is tried anyway: it may be back, and without a D there is no answer.
      const chosen = decode.value?.node ?? this.#choosers.decode.anyway();
      if (!chosen) throw new VllmPdError('NODE_UNREACHABLE', 'This proxy has no decode node.');
      const nodes: Home = { prefill: prefill.value?.node ?? null, decode: chosen };
      if (turn.sessionId !== null) this.#conversations.settle(turn.sessionId, nodes);
      return { ...nodes, endPrefill: prefill.value?.end ?? (() => {}), end };
    } catch (error) {
      end();
      throw error;
    }
  }

  /** A healthy node of the role that was not tried yet, and that suits. */
  another(
    role: 'prefill' | 'decode',
    tried: ReadonlySet<ProxyNode>,
    suits: (node: ProxyNode) => boolean = () => true,
  ): ProxyNode | null {
    return this.#choosers[role].another(tried, suits);
  }

  async #choose(
    role: 'prefill' | 'decode',
    turn: TurnRequest,
    home: ProxyNode | null,
    ends: (() => void)[],
    signal: AbortSignal,
  ): Promise<Choice | null> {
    const chooser = this.#choosers[role];
    const choice = await chooser.choose(turn, home, signal);
    if (!choice) return null;
    ends.push(choice.end);
    this.#metrics.routed(role, chooser.policy, choice.reason, choice.node.url);
    return choice;
  }
}
