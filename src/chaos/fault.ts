// What can go wrong, to whom, and at which step of a turn: data, made from a seed.
import type { Random } from '../bench/random.js';

/** Where in a turn a fault strikes: when the first hop gets there. */
export const steps = [
  /** The proxy is about to ask D. */
  'before_query',
  /** D has answered (and leases), the proxy does not know it yet. */
  'after_query',
  /** P has been asked to prefill: it reads from D, or computes. */
  'during_prefill',
  /** P has prefilled and holds its blocks, the proxy does not know it yet. */
  'after_prefill',
  /** D has been asked to decode: it reads from P. */
  'during_hand_over',
  /** Some tokens have reached the client. */
  'mid_stream',
] as const;

export type Step = (typeof steps)[number];

export type Side = 'prefill' | 'decode';

export type Fault =
  /** SIGKILL; the node is started again, with a new engine id and an empty pool. */
  | { readonly kind: 'kill'; readonly side: Side }
  /** SIGSTOP, and SIGCONT after `ms`. */
  | { readonly kind: 'stop'; readonly side: Side; readonly ms: number }
  /** The HTTP hop that is under way loses its connection. */
  | { readonly kind: 'cut_hop' }
  /** The hop that is under way goes on after `ms`. */
  | { readonly kind: 'slow_hop'; readonly ms: number }
  /** The node drops every cached block that nobody holds. */
  | { readonly kind: 'evict'; readonly side: Side }
  /** For `ms`, peers cannot reach the node's side channel and blocks, and lose the connections that they have. */
  | { readonly kind: 'partition'; readonly side: Side; readonly ms: number }
  /** The same, but nobody is told: what is sent is lost, and connections of that time stay silent for good. */
  | { readonly kind: 'blackhole'; readonly side: Side; readonly ms: number }
  /** For `ms`, what the node and its peers say to each other comes late. */
  | { readonly kind: 'delay'; readonly side: Side; readonly ms: number }
  /** A connection between the node and a peer breaks off after so many more bytes. */
  | { readonly kind: 'truncate'; readonly side: Side; readonly numBytes: number }
  /** One bit of what the node and its peers say to each other is turned over, after so many more bytes. */
  | { readonly kind: 'corrupt'; readonly side: Side; readonly numBytes: number }
  /** After so many more bytes, what comes next arrives behind what follows it. */
  | { readonly kind: 'reorder'; readonly side: Side; readonly numBytes: number }
  /** The proxy ends, with everything that goes through it, and is started again. */
  | { readonly kind: 'restart_proxy' }
  /** Blocks in the shared store are damaged. */
  | { readonly kind: 'store_damage' }
  /** The shared store is away for `ms`, and comes back without blocks that it had: a server that was killed, a directory that was lost. */
  | { readonly kind: 'store_lose'; readonly ms: number }
  /** For `ms`, the shared store does not work. */
  | { readonly kind: 'store_stop'; readonly ms: number }
  /** For `ms`, the shared store takes its time for everything. */
  | { readonly kind: 'store_slow'; readonly ms: number }
  /** For `ms`, the shared store has no room for anything new. */
  | { readonly kind: 'store_full'; readonly ms: number }
  /** For `ms`, the shared store can be read only. */
  | { readonly kind: 'store_unwritable'; readonly ms: number };

export type FaultKind = Fault['kind'];

export const faultKinds = [
  'kill',
  'stop',
  'cut_hop',
  'slow_hop',
  'evict',
  'partition',
  'blackhole',
  'delay',
  'truncate',
  'corrupt',
  'reorder',
  'restart_proxy',
  'store_damage',
  'store_lose',
  'store_stop',
  'store_slow',
  'store_full',
  'store_unwritable',
] as const satisfies readonly FaultKind[];

/** Only where there is a shared store. */
export function isStoreFault(kind: FaultKind): boolean {
  return kind.startsWith('store_');
}

export interface PlannedFault {
  readonly step: Step;
  readonly fault: Fault;
}

/** Steps that a turn has in each mode. */
function stepsOf(asksEachTurn: boolean): readonly Step[] {
  return asksEachTurn ? steps : steps.filter((step) => !step.endsWith('query'));
}

export function planFault(random: Random, kinds: readonly FaultKind[], asksEachTurn: boolean): PlannedFault {
  const possible = stepsOf(asksEachTurn);
  const kind = pick(random, kinds);
  const step = pick(random, possible);
  const side: Side = random.next() < 0.5 ? 'prefill' : 'decode';
  return { step, fault: createFault(random, kind, side) };
}

function createFault(random: Random, kind: FaultKind, side: Side): Fault {
  switch (kind) {
    case 'cut_hop':
    case 'restart_proxy':
    case 'store_damage':
      return { kind };
    case 'store_lose':
    case 'store_stop':
    case 'store_slow':
    case 'store_full':
    case 'store_unwritable':
      return { kind, ms: random.integer(50, 1500) };
    case 'slow_hop':
      return { kind, ms: random.integer(5, 150) };
    case 'kill':
    case 'evict':
      return { kind, side };
    case 'stop':
    case 'partition':
    case 'blackhole':
    case 'delay':
      return { kind, side, ms: random.integer(5, 300) };
    case 'truncate':
    case 'corrupt':
    case 'reorder':
      // Small numbers hit the handshake, large ones block data.
      return { kind, side, numBytes: Math.floor(2 ** (random.next() * 16)) };
  }
}

function pick<T>(random: Random, choices: readonly T[]): T {
  return choices[random.integer(0, choices.length - 1)]!;
}
