// What a public dataset says of conversations, before texts are made: words as they are, or only how long they were.
import type { ChatMessage } from '../client.js';

export const filetypes = [
  'messages',
  'sharegpt',
  'mt-bench',
  'mooncake',
  'bailian',
  'azure',
  'burstgpt',
] as const;

export type Filetype = (typeof filetypes)[number];

/** Blocks of a prompt by content: equal ids are equal tokens after equal tokens. */
export interface PromptBlocks {
  readonly ids: readonly (number | string)[];
  /** Tokens of a block; the last one may hold fewer. */
  readonly blockSize: number;
}

export type TurnInput =
  | { readonly kind: 'messages'; readonly messages: readonly ChatMessage[] }
  /** Tokens that the turn adds to its conversation; `blocks` of a first turn, where the dataset tells them. */
  | { readonly kind: 'tokens'; readonly numTokens: number; readonly blocks: PromptBlocks | null };

/** Null = the dataset has no answer. */
export type TurnOutput =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'tokens'; readonly numTokens: number }
  | null;

export interface DatasetTurn {
  readonly input: TurnInput;
  readonly output: TurnOutput;
  /** When it was sent, in ms of the dataset's own clock. */
  readonly arrivalMs: number | null;
  /** How long after the end of the answer before, in ms, where the dataset says so. */
  readonly delayMs: number | null;
}

export interface DatasetConversation {
  readonly id: string;
  readonly turns: readonly DatasetTurn[];
}

/** What was read and what was left out, and why: nothing is dropped without being counted. */
export class Tally {
  numRows = 0;
  /** False when rows behind the last one read were not looked at. */
  complete = true;
  /** False where the file cannot have conversations of more than one turn. */
  hasSessions = true;
  readonly #notes: string[] = [];
  readonly #skipped = new Map<string, number>();

  /** `what`: a plural with its reason, `rows without a response`. */
  skip(what: string, count = 1): void {
    if (count > 0) this.#skipped.set(what, (this.#skipped.get(what) ?? 0) + count);
  }

  /** What a reader of figures must know about how conversations were found. */
  note(sentence: string): void {
    this.#notes.push(sentence);
  }

  get notes(): readonly string[] {
    return this.#notes;
  }

  get skipped(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#skipped);
  }
}

export interface ReadOptions {
  /** Rows to look at: records of a JSON file, lines of a CSV file. */
  readonly maxRows: number;
  readonly tally: Tally;
}

/**
 * Reads one format: conversations in the order in which they begin in the file. Throws BAD_FILE naming file, line and field
 * for a row that is not what it should be.
 */
export type DatasetReader = (file: string, options: ReadOptions) => AsyncGenerator<DatasetConversation>;
