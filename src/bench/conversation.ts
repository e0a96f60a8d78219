// What is going to be said: the user's side of a conversation and how long each answer is to be.
import type { ChatMessage } from './client.js';

export interface UserTurn {
  /** What is said before the answer: the user's message, and whatever system or tool messages stand beside it. */
  readonly messages: readonly ChatMessage[];
  /** Tokens that the answer is to have. */
  readonly numOutputTokens: number;
  /** When it was sent, by a trace's own clock. */
  readonly arrivalMs?: number | null;
  /** Not before this long after the answer before it. */
  readonly delayMs?: number | null;
}

export interface Conversation {
  readonly id: string;
  readonly turns: readonly UserTurn[];
}
