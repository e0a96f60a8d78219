// Which of several nodes of one role plays a turn: what each routing policy asks, and how it decides.
import type { RoutingPolicy } from '../../config.js';
import { messageOf } from '../../errors.js';
import { createLogger } from '../../log.js';
import { queryCache } from './lookup.js';
import type { RoutingReason } from './metrics.js';
import type { ProxyNode } from './node.js';
import { isForOneNode, type TurnRequest } from './request.js';

const log = createLogger('proxy');

/** Without a session: a shared system prompt is no reason to send everybody to one node, most of the prompt is. */
const minHeldShare = 0.5;

/** A node with this many more turns than twice the least loaded one's gets no more for its cache's sake. */
const maxExtraLoad = 4;

export interface Choice {
  readonly node: ProxyNode;
  readonly reason: RoutingReason;
  /** The turn counts as load of the node until then. Idempotent. */
  readonly end: () => void;
}

export interface NodeChooserOptions {
  readonly nodes: readonly ProxyNode[];
  readonly policy: RoutingPolicy;
  /** A node that takes longer to say what it holds, or how busy it is, is chosen without that. */
  readonly timeoutMs: number;
}

export class NodeChooser {
  readonly nodes: readonly ProxyNode[];
  readonly policy: RoutingPolicy;
  readonly #timeoutMs: number;
  #numTurns = 0;

  constructor({ nodes, policy, timeoutMs }: NodeChooserOptions) {
    this.nodes = nodes;
    this.policy = policy;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Null when no node is healthy. `home` is where the turn's conversation was; null = nowhere yet. Choosing and counting
   * the turn are one step, so that turns that come together see each other. Rejects only when the client has gone.
   */
  async choose(turn: TurnRequest, home: ProxyNode | null, signal: AbortSignal): Promise<Choice | null> {
    const healthy = this.nodes.filter((node) => node.healthy);
    if (healthy.length <= 1) return healthy[0] ? take(healthy[0], 'only') : null;
    const healthyHome = home?.healthy ? home : null;
    switch (this.policy) {
      case 'round-robin':
        return this.#next(healthy);
      case 'session':
        return this.#bySession(turn, healthy, healthyHome, signal);
      case 'prefix':
        return this.#byPrefix(turn, healthy, healthyHome, signal);
      case 'least-loaded':
        return this.#byLoad(healthy, signal);
    }
  }

  /** One that does not answer, tried all the same; null when there is none at all. */
  anyway(): ProxyNode | null {
    return this.nodes[this.#numTurns++ % this.nodes.length] ?? null;
  }

  /** The healthy one with the least to do that was not tried yet and that suits. */
  another(tried: ReadonlySet<ProxyNode>, suits: (node: ProxyNode) => boolean): ProxyNode | null {
    const left = this.nodes.filter((node) => node.healthy && !tried.has(node) && suits(node));
    return left.length === 0 ? null : leastLoaded(left, ({ load }) => load);
  }

  async #bySession(
    turn: TurnRequest,
    healthy: readonly ProxyNode[],
    home: ProxyNode | null,
    signal: AbortSignal,
  ): Promise<Choice> {
    if (home) return take(home, 'home');
    if (turn.sessionId !== null) return this.#next(healthy);
    const held = await this.#heldPrefixes(turn, healthy, signal);
    const best = longest(held, null);
    if (!best || best.numTokens < minHeldShare * best.numPromptTokens) return this.#next(healthy);
    return take(best.node, 'prefix');
  }

  /** Equal prefixes: home, else the node with less to do. Nodes that cannot be asked, as vLLM's, hold nothing. */
  async #byPrefix(
    turn: TurnRequest,
    healthy: readonly ProxyNode[],
    home: ProxyNode | null,
    signal: AbortSignal,
  ): Promise<Choice> {
    const held = await this.#heldPrefixes(turn, healthy, signal);
    const best = longest(held, home);
    const idlest = this.#idlest(healthy, ({ load }) => load);
    if (!best) return held.length === 0 && home ? take(home, 'home') : take(idlest, 'load');
    const isBusy = best.node.load > 2 * idlest.load + maxExtraLoad;
    return isBusy ? take(idlest, 'load') : take(best.node, 'prefix');
  }

  /** What a node says counts other proxies' turns too; what this one has sent there since is not in it yet. */
  async #byLoad(healthy: readonly ProxyNode[], signal: AbortSignal): Promise<Choice> {
    const reported = await Promise.all(healthy.map((node) => loadOf(node, this.#timeoutMs, signal)));
    const said = new Map(healthy.map((node, i) => [node, reported[i] ?? 0]));
    return take(
      this.#idlest(healthy, (node) => Math.max(node.load, said.get(node) ?? 0)),
      'load',
    );
  }

  /** Of equally loaded ones, each in its turn. */
  #idlest(nodes: readonly ProxyNode[], load: (node: ProxyNode) => number): ProxyNode {
    const first = this.#numTurns++ % nodes.length;
    const inTurn = [...nodes.slice(first), ...nodes.slice(0, first)];
    return leastLoaded(inTurn, load);
  }

  #next(nodes: readonly ProxyNode[]): Choice {
    return take(nodes[this.#numTurns++ % nodes.length]!, 'turn');
  }

  async #heldPrefixes(
    turn: TurnRequest,
    nodes: readonly ProxyNode[],
    signal: AbortSignal,
  ): Promise<HeldPrefix[]> {
    const askable = isForOneNode(turn) ? [] : nodes.filter((node) => node.answersCacheQueries);
    const options = { queryTimeoutMs: this.#timeoutMs, lease: false };
    const answers = await Promise.all(askable.map((node) => queryCache(turn, node, options, signal)));
    return answers.flatMap((answer, i) => {
      if (!answer) return [];
      const { num_tokens: numTokens, num_prompt_tokens: numPromptTokens } = answer;
      return [{ node: askable[i]!, numTokens, numPromptTokens }];
    });
  }
}

function take(node: ProxyNode, reason: RoutingReason): Choice {
  return { node, reason, end: node.beginTurn() };
}

interface HeldPrefix {
  readonly node: ProxyNode;
  readonly numTokens: number;
  readonly numPromptTokens: number;
}

/** Null when nobody holds anything. */
function longest(held: readonly HeldPrefix[], home: ProxyNode | null): HeldPrefix | null {
  let best: HeldPrefix | null = null;
  for (const prefix of held) {
    if (prefix.numTokens === 0) continue;
    const isBetter =
      !best ||
      prefix.numTokens > best.numTokens ||
      (prefix.numTokens === best.numTokens &&
        best.node !== home &&
        (prefix.node === home || prefix.node.load < best.node.load));
    if (isBetter) best = prefix;
  }
  return best;
}

/** The first of those with the smallest load. */
function leastLoaded(nodes: readonly ProxyNode[], load: (node: ProxyNode) => number): ProxyNode {
  return nodes.reduce((best, node) => (load(node) < load(best) ? node : best));
}

/** Requests that run or wait on the node; null when it cannot say, in time or at all. Rejects when the client has gone. */
async function loadOf(node: ProxyNode, timeoutMs: number, signal: AbortSignal): Promise<number | null> {
  try {
    const response = await node.fetch({
      method: 'GET',
      path: '/load',
      signal,
      timeoutMs,
    });
    if (response.status !== 200) return null;
    const { server_load } = JSON.parse(response.bytes.toString('utf8')) as { readonly server_load?: unknown };
    return typeof server_load === 'number' ? server_load : null;
  } catch (error) {
    signal.throwIfAborted();
    log.debug({ node: node.url, err: messageOf(error) }, 'a node did not say how busy it is');
    return null;
  }
}
