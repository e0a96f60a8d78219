// Which nodes a conversation is at home on, and the ticket that D gave out after its last turn.
import type { KvTransferParams } from '../../wire.js';
import type { History } from './history.js';
import type { ProxyNode } from './node.js';

export interface Home {
  readonly prefill: ProxyNode | null;
  readonly decode: ProxyNode;
}

/** D's word, in ticket mode, on where it holds a finished turn's blocks. Good for one use. */
export interface Ticket {
  readonly node: ProxyNode;
  readonly params: KvTransferParams;
  /** What the conversation was then, for readers that do not see for themselves; absent = not known. */
  readonly history?: History | null;
}

interface Conversation {
  home: Home;
  ticket: Ticket | null;
  ticketExpiresAtMs: number;
}

/** vLLM's proxy keeps tickets for 450 of the 480 seconds that D does. */
const shareOfTtl = 450 / 480;
const defaultTtlMs = 480_000;
const maxConversations = 100_000;

export class ConversationTable {
  /** Least recently used first. */
  readonly #conversations = new Map<string, Conversation>();
  readonly #clock: () => number;
  /** Called for a ticket that nobody will use, so that D need not hold its blocks any longer. */
  readonly #onDrop: (ticket: Ticket) => void;

  constructor(options: { readonly clock: () => number; readonly onDrop: (ticket: Ticket) => void }) {
    this.#clock = options.clock;
    this.#onDrop = options.onDrop;
  }

  homeOf(sessionId: string): Home | null {
    return this.#conversations.get(sessionId)?.home ?? null;
  }

  settle(sessionId: string, home: Home): void {
    const known = this.#conversations.get(sessionId);
    this.#conversations.delete(sessionId);
    this.#conversations.set(sessionId, {
      ticket: known?.ticket ?? null,
      ticketExpiresAtMs: known?.ticketExpiresAtMs ?? 0,
      home,
    });
    if (this.#conversations.size > maxConversations) this.#forgetOldest();
  }

  /** Keeps a ticket for the next turn, in place of an older one. */
  keepTicket(sessionId: string, ticket: Ticket): void {
    const conversation = this.#conversations.get(sessionId);
    if (!conversation) {
      this.#onDrop(ticket);
      return;
    }
    if (conversation.ticket) this.#onDrop(conversation.ticket);
    const ttlMs = ticket.params.remote_lease_expires_in_ms ?? defaultTtlMs;
    conversation.ticket = ticket;
    conversation.ticketExpiresAtMs = this.#clock() + shareOfTtl * ttlMs;
  }

  /** Takes the ticket out; null when there is none or it has run out. */
  takeTicket(sessionId: string): Ticket | null {
    const conversation = this.#conversations.get(sessionId);
    const ticket = conversation?.ticket;
    if (!conversation || !ticket) return null;
    conversation.ticket = null;
    return this.#clock() < conversation.ticketExpiresAtMs ? ticket : null;
  }

  #forgetOldest(): void {
    const [oldest] = this.#conversations;
    if (!oldest) return;
    const [sessionId, { ticket }] = oldest;
    this.#conversations.delete(sessionId);
    if (ticket) this.#onDrop(ticket);
  }
}
