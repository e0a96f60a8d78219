// Conversations as lengths: how many tokens each turn's prompt and answer have, the chat template's included where it is known.
import type { Conversation } from '../conversation.js';
import type { DatasetConversation, DatasetTurn } from '../datasets/dataset.js';

/** What a model's tokenizer and chat template say of lengths. */
export interface PromptMeter {
  count(text: string): number;
  /** Tokens that the chat template adds to messages of these roles, up to where the answer begins. */
  templateTokens(roles: readonly string[]): number;
}

export interface LengthTurn {
  /** The whole prompt. */
  readonly numPromptTokens: number;
  readonly numOutputTokens: number;
  /** By the dataset's own clock; null where it has none. */
  readonly arrivalMs: number | null;
}

export interface LengthConversation {
  readonly turns: readonly LengthTurn[];
}

type Message = { readonly role: string; readonly content: string };

/** Grows by what is said and answered. */
class History {
  readonly #meter: PromptMeter;
  readonly #roles: string[] = [];
  #numTokens = 0;

  constructor(meter: PromptMeter) {
    this.#meter = meter;
  }

  /** Tokens of the prompt. */
  ask(messages: readonly Message[]): number {
    for (const { role, content } of messages) {
      this.#roles.push(role);
      this.#numTokens += this.#meter.count(content);
    }
    return this.#numTokens + this.#meter.templateTokens(this.#roles);
  }

  answer(numTokens: number): void {
    this.#roles.push('assistant');
    this.#numTokens += numTokens;
  }
}

/** Exactly what will be played, as far as the template adds the same to any text. */
export function lengthsOfPlayed({ turns }: Conversation, meter: PromptMeter): LengthConversation {
  const history = new History(meter);
  return {
    turns: turns.map(({ messages, numOutputTokens, arrivalMs }) => {
      const numPromptTokens = history.ask(messages);
      history.answer(numOutputTokens);
      return { numPromptTokens, numOutputTokens, arrivalMs: arrivalMs ?? null };
    }),
  };
}

/** As the dataset has it. `defaultOutputTokens`: of answers that it does not give. */
export function lengthsOfRecorded(
  { turns }: DatasetConversation,
  meter: PromptMeter,
  defaultOutputTokens: number,
): LengthConversation {
  const history = new History(meter);
  let numTraced = 0;
  const outputTokens = ({ output }: DatasetTurn) => {
    if (output === null) return defaultOutputTokens;
    return output.kind === 'tokens' ? output.numTokens : Math.max(1, meter.count(output.text));
  };
  return {
    turns: turns.map((turn) => {
      const { input, arrivalMs } = turn;
      const numOutputTokens = outputTokens(turn);
      // A trace's lengths are of prompts as they were sent, whatever template made them.
      const numPromptTokens =
        input.kind === 'tokens' ? numTraced + input.numTokens : history.ask(input.messages);
      numTraced = numPromptTokens + numOutputTokens;
      history.answer(numOutputTokens);
      return { numPromptTokens, numOutputTokens, arrivalMs };
    }),
  };
}
