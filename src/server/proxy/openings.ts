// Which decode nodes were sent prompts that begin alike: of a conversation that begins like no other, none can hold anything.
import type { ProxyNode } from './node.js';
import type { TurnRequest } from './request.js';

/** Prompts that part within this many characters share less than is worth reading. */
const openingLength = 64;
const maxOpenings = 10_000;

export class Openings {
  readonly #byNode = new WeakMap<ProxyNode, Set<string>>();

  /**
   * False if asking the node about this turn would be in vain: it is the first of its conversation, and no turn that began
   * like it was sent there. True also when that cannot be seen. Remembers the turn as one that is.
   */
  mayHold(node: ProxyNode, turn: TurnRequest): boolean {
    const opening = openingOf(turn);
    if (opening === null) return true;
    const known = this.#knownBy(node);
    const wasKnown = known.delete(opening);
    // The latest last.
    known.add(opening);
    if (known.size > maxOpenings) known.delete(known.values().next().value!);
    return wasKnown || !isFirstTurn(turn);
  }

  #knownBy(node: ProxyNode): Set<string> {
    let known = this.#byNode.get(node);
    if (!known) {
      known = new Set();
      this.#byNode.set(node, known);
    }
    return known;
  }
}

interface Message {
  readonly role?: unknown;
  readonly content?: unknown;
}

/** How the first message begins; null for what is no chat with a text in front. */
function openingOf({ body }: TurnRequest): string | null {
  const content = messagesOf(body.messages)?.[0]?.content;
  return typeof content === 'string' ? content.slice(0, openingLength) : null;
}

/** No answer of anybody's is in it; a node could hold of it what another conversation left there, and nothing else. */
function isFirstTurn({ body }: TurnRequest): boolean {
  return messagesOf(body.messages)?.every(({ role }) => role === 'system' || role === 'user') === true;
}

/** Null unless it is a list of objects; whether they are messages is for the nodes to say. */
function messagesOf(messages: unknown): readonly Message[] | null {
  if (!Array.isArray(messages)) return null;
  return messages.every((message) => typeof message === 'object' && message !== null) ? messages : null;
}
