// Turns of a dataset as they are played: texts as they are or made-up words of the same length, scaled, cut where they grow too long.
import type { ChatMessage } from '../client.js';
import type { UserTurn } from '../conversation.js';
import { type CountTokens, textOfTokens, wordSource } from '../prompt-text.js';
import { Random } from '../random.js';
import { BlockTexts } from './block-texts.js';
import type { DatasetConversation, DatasetTurn, Tally, TurnInput, TurnOutput } from './dataset.js';

export interface WriterOptions {
  readonly seed: number;
  /** Lengths are multiplied by this. */
  readonly scale: number;
  readonly maxTurns: number;
  readonly maxPromptTokens: number;
  /** Prompt and answer; what the nodes have room for. */
  readonly maxSequenceTokens: number;
  /** Tokens of an answer that the dataset does not give. */
  readonly defaultOutputTokens: number;
}

/** What chat templates put around a message, generously: a prompt that just fits must not fail. */
const templateTokens = 8;

export class TurnWriter {
  readonly #options: WriterOptions;
  readonly #count: CountTokens;
  readonly #blocks: BlockTexts;

  constructor(options: WriterOptions, count: CountTokens) {
    this.#options = options;
    this.#count = count;
    this.#blocks = new BlockTexts(options.seed, count);
  }

  /** The turns that fit, from the first one on; none where not even that does. */
  async write({ id, turns }: DatasetConversation, tally: Tally): Promise<UserTurn[]> {
    const { seed, maxTurns, maxPromptTokens, maxSequenceTokens } = this.#options;
    const nextWord = wordSource([], new Random(seed, `text/${id}`));
    const written: UserTurn[] = [];
    const lengths = new Lengths(this.#options.scale);
    for (const turn of turns.slice(0, maxTurns)) {
      const numOutputTokens = await this.#outputTokens(turn.output);
      const messages = this.#scaled(turn.input);
      const numInputTokens = messages
        ? await this.#count(messages.map(({ content }) => content).join(''))
        : lengths.next(turn);
      const numPromptTokens = lengths.numHistory + numInputTokens;
      const sequence = numPromptTokens + numOutputTokens + (2 * written.length + 2) * templateTokens;
      if (numPromptTokens > maxPromptTokens || sequence > maxSequenceTokens) break;
      lengths.add(numInputTokens + numOutputTokens);
      written.push({
        messages: messages ?? [
          { role: 'user', content: await this.#madeUp(turn.input, numInputTokens, nextWord) },
        ],
        numOutputTokens,
        arrivalMs: turn.arrivalMs,
        delayMs: turn.delayMs,
      });
    }
    tally.skip('turns behind --num-turns', Math.max(0, turns.length - maxTurns));
    tally.skip('turns whose prompt is too long', Math.min(turns.length, maxTurns) - written.length);
    return written;
  }

  async #outputTokens(output: TurnOutput): Promise<number> {
    const { scale, defaultOutputTokens } = this.#options;
    if (output === null) return defaultOutputTokens;
    const numTokens = output.kind === 'tokens' ? output.numTokens : await this.#count(output.text);
    return Math.max(1, Math.round(numTokens * scale));
  }

  /** Null for inputs without texts. A text is scaled by its end being cut off. */
  #scaled(input: TurnInput): readonly ChatMessage[] | null {
    if (input.kind === 'tokens') return null;
    const { scale } = this.#options;
    if (scale >= 1) return input.messages;
    return input.messages.map(({ role, content }) => {
      const characters = Array.from(content);
      return { role, content: characters.slice(0, Math.ceil(characters.length * scale)).join('') };
    });
  }

  #madeUp(input: TurnInput, numTokens: number, nextWord: () => string): Promise<string> {
    return input.kind === 'tokens' && input.blocks
      ? this.#blocks.textOf(input.blocks, numTokens, this.#options.scale)
      : textOfTokens(numTokens, nextWord, this.#count);
  }
}

/** Rounds whole prompts and not what each turn adds, so that rounding does not add up. */
class Lengths {
  readonly #scale: number;
  /** Tokens of everything said, as the dataset has it. */
  #original = 0;
  /** The same as it is played. */
  numHistory = 0;

  constructor(scale: number) {
    this.#scale = scale;
  }

  /** Tokens that the turn adds. */
  next({ input, output }: DatasetTurn): number {
    this.#original += input.kind === 'tokens' ? input.numTokens : 0;
    const numInputTokens = Math.max(1, Math.round(this.#original * this.#scale) - this.numHistory);
    this.#original += output?.kind === 'tokens' ? output.numTokens : 0;
    return numInputTokens;
  }

  add(numTokens: number): void {
    this.numHistory += numTokens;
  }
}
