// Requests of a trace put together to conversations, from their lengths and from what the trace says of who follows whom.
import type { DatasetConversation, DatasetTurn, PromptBlocks, Tally } from './dataset.js';

export interface TraceRow {
  /** Name of the conversation, if the row begins one. */
  readonly id: string;
  readonly arrivalMs: number | null;
  readonly delayMs: number | null;
  /** The whole prompt, everything said before included. */
  readonly numInputTokens: number;
  readonly numOutputTokens: number;
  readonly blocks: PromptBlocks | null;
}

export interface TraceSession {
  readonly id: string;
  readonly turns: DatasetTurn[];
  last: TraceRow;
}

/**
 * A trace gives each prompt's length, not which of it is new. A row that follows another one begins with that one's
 * prompt and answer, so what it adds is input − previous input − previous output. Where that is below 0 the history was
 * rewritten (thinking dropped, turns summarised), and the row begins a conversation of its own.
 */
export class TraceSessions {
  readonly #tally: Tally;
  readonly #sessions: TraceSession[] = [];
  readonly #ids = new Map<string, number>();

  constructor(tally: Tally) {
    this.#tally = tally;
  }

  /** The row's session: `before`, or a new one. */
  add(row: TraceRow, before: TraceSession | null): TraceSession {
    const numNew = before
      ? row.numInputTokens - before.last.numInputTokens - before.last.numOutputTokens
      : -1;
    const { arrivalMs, delayMs, numOutputTokens } = row;
    const turn = (numTokens: number, blocks: PromptBlocks | null): DatasetTurn => ({
      // An empty message is none.
      input: { kind: 'tokens', numTokens: Math.max(1, numTokens), blocks },
      output: { kind: 'tokens', numTokens: Math.max(1, numOutputTokens) },
      arrivalMs,
      delayMs,
    });
    if (before && numNew >= 0) {
      before.turns.push(turn(numNew, null));
      before.last = row;
      return before;
    }
    if (before) this.#tally.skip('links to a turn before whose history was rewritten');
    const session = { id: this.#unique(row.id), turns: [turn(row.numInputTokens, row.blocks)], last: row };
    this.#sessions.push(session);
    return session;
  }

  conversations(): readonly DatasetConversation[] {
    return this.#sessions;
  }

  #unique(id: string): string {
    const count = (this.#ids.get(id) ?? 0) + 1;
    this.#ids.set(id, count);
    return count === 1 ? id : `${id}/${count}`;
  }
}
