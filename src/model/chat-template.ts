// Messages → the text that the model was trained on, by the model folder's own Jinja template.
import { Template } from '@huggingface/jinja';
import { z } from 'zod';
import { messageOf, VllmPdError } from '../errors.js';
import { badFile, parseAs, readJsonFile, readTextFile } from './model-files.js';
import type { Tokenizer } from './tokenizer.js';

export interface ChatTextPart {
  readonly type: 'text';
  readonly text: string;
}

/** As clients send it; fields beyond role and content reach the template unchanged. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: string | readonly ChatTextPart[] | null;
  readonly [field: string]: unknown;
}

export interface RenderChatOptions {
  /** Ends the text where the assistant's answer begins. Default true. */
  readonly addGenerationPrompt?: boolean;
  /** Ends the text inside the last message, so that the model goes on with it. */
  readonly continueFinalMessage?: boolean;
  readonly tools?: readonly unknown[] | null;
  /** Further variables for the template. */
  readonly chatTemplateKwargs?: Readonly<Record<string, unknown>>;
}

const templateSchema = z.looseObject({
  chat_template: z
    .union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))])
    .nullish(),
});

export class ChatTemplate {
  readonly #tokenizer: Tokenizer;
  /** Null for a model that was not made for chat. */
  readonly #template: Template | null;

  private constructor(tokenizer: Tokenizer, template: Template | null) {
    this.#tokenizer = tokenizer;
    this.#template = template;
  }

  /**
   * Reads `chat_template.jinja`, else `chat_template` of chat_template.json or of tokenizer_config.json. Throws BAD_FILE
   * if what is there does not parse.
   */
  static async load(modelPath: string, tokenizer: Tokenizer): Promise<ChatTemplate> {
    const file = await readTextFile(modelPath, 'chat_template.jinja');
    const source = file ?? (await templateOfConfig(modelPath));
    if (source === null) return new ChatTemplate(tokenizer, null);
    try {
      return new ChatTemplate(tokenizer, new Template(source));
    } catch (error) {
      const name = file === undefined ? 'tokenizer_config.json' : 'chat_template.jinja';
      throw badFile(modelPath, name, `the chat template does not parse (${messageOf(error)})`, error);
    }
  }

  get isPresent(): boolean {
    return this.#template !== null;
  }

  /** Throws INVALID_ARGUMENT if the model has no template or the template refuses the messages. */
  renderChat(messages: readonly ChatMessage[], options: RenderChatOptions = {}): string {
    if (!this.#template) throw refused('This model has no chat template; send a prompt instead of messages.');
    const { addGenerationPrompt = true, continueFinalMessage = false, tools = null } = options;
    if (continueFinalMessage && addGenerationPrompt) {
      throw refused('continue_final_message and add_generation_prompt cannot both be true.');
    }
    const flat = messages.map(withTextContent);
    let text: string;
    try {
      text = this.#template.render({
        ...this.#tokenizer.specialTokens,
        ...options.chatTemplateKwargs,
        messages: flat,
        tools,
        add_generation_prompt: addGenerationPrompt,
      });
    } catch (error) {
      throw refused(`The chat template refuses these messages: ${messageOf(error)}`, error);
    }
    return continueFinalMessage ? cutAfter(text, flat.at(-1)) : text;
  }

  /** The prompt's token ids; special tokens come from the template alone. */
  encodeChat(messages: readonly ChatMessage[], options: RenderChatOptions = {}): number[] {
    return this.#tokenizer.encode(this.renderChat(messages, options), { addSpecialTokens: false });
  }
}

async function templateOfConfig(modelPath: string): Promise<string | null> {
  const own = 'chat_template.json';
  const ownJson = await readJsonFile(modelPath, own);
  const name = ownJson === undefined ? 'tokenizer_config.json' : own;
  const json = ownJson ?? (await readJsonFile(modelPath, name)) ?? {};
  const found = parseAs(templateSchema, json, modelPath, name).chat_template;
  if (found == null || typeof found === 'string') return found ?? null;
  return found.find(({ name }) => name === 'default')?.template ?? null;
}

/** Templates expect text; a list of text parts becomes their lines. */
function withTextContent(message: ChatMessage): ChatMessage {
  const { content } = message;
  if (content == null || typeof content === 'string') return message;
  if (!Array.isArray(content)) throw refused(`A message's content must be text or a list of text parts.`);
  const other = content.find((part) => part?.type !== 'text' || typeof part.text !== 'string');
  if (other !== undefined) {
    throw refused(`Only text parts are supported in a message but received ${JSON.stringify(other)}.`);
  }
  return { ...message, content: content.map((part: ChatTextPart) => part.text).join('\n') };
}

/** The text up to the end of the last message's content, which some templates trim. */
function cutAfter(text: string, last: ChatMessage | undefined): string {
  const content = typeof last?.content === 'string' ? last.content : '';
  for (const candidate of [content, content.trim()]) {
    const start = candidate === '' ? -1 : text.lastIndexOf(candidate);
    if (start >= 0) return text.slice(0, start + candidate.length);
  }
  throw refused('continue_final_message needs a last message whose text the chat template keeps.');
}

function refused(message: string, cause?: unknown): VllmPdError {
  return new VllmPdError('INVALID_ARGUMENT', message, { cause, param: 'messages' });
}
