// Messages → the text that the model was trained on, by the model folder's own Jinja template.
import { readFile } from 'node:fs/promises';
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

/** Template of requests with tools, where a model has one of its own for them. */
const toolUse = 'tool_use';

export class ChatTemplate {
  /** Where the template was found: a file's name, or `--chat-template`. Null without one. */
  readonly source: string | null;
  readonly #tokenizer: Tokenizer;
  /** Null for a model that was not made for chat. */
  readonly #template: Template | null;
  readonly #toolTemplate: Template | null;

  private constructor(tokenizer: Tokenizer, found: FoundTemplates | null) {
    this.#tokenizer = tokenizer;
    this.source = found?.source ?? null;
    this.#template = found && new Template(found.text);
    this.#toolTemplate = found?.toolText == null ? null : new Template(found.toolText);
  }

  /**
   * Reads `chat_template.jinja`, else `chat_template` of chat_template.json or of tokenizer_config.json; `given`, a
   * file's path or a template itself, goes before all. Throws BAD_FILE if what is there does not parse.
   */
  static async load(
    modelPath: string,
    tokenizer: Tokenizer,
    given: string | null = null,
  ): Promise<ChatTemplate> {
    const found =
      given === null
        ? ((await templatesOfFiles(modelPath)) ?? (await templatesOfConfig(modelPath)))
        : await givenTemplate(given);
    try {
      return new ChatTemplate(tokenizer, found);
    } catch (error) {
      const what = `the chat template does not parse (${messageOf(error)})`;
      if (given !== null) throw refusedFlag(what, error);
      throw badFile(modelPath, found?.source ?? '', what, error);
    }
  }

  get isPresent(): boolean {
    return this.#template !== null;
  }

  /** Throws INVALID_ARGUMENT if the model has no template or the template refuses the messages. */
  renderChat(messages: readonly ChatMessage[], options: RenderChatOptions = {}): string {
    const { addGenerationPrompt = true, continueFinalMessage = false, tools = null } = options;
    const template = (tools && this.#toolTemplate) ?? this.#template;
    if (!template) throw refused('This model has no chat template; send a prompt instead of messages.');
    if (continueFinalMessage && addGenerationPrompt) {
      throw refused('continue_final_message and add_generation_prompt cannot both be true.');
    }
    const flat = messages.map(withTextContent);
    let text: string;
    try {
      text = template.render({
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

interface FoundTemplates {
  readonly source: string;
  readonly text: string;
  readonly toolText: string | null;
}

/** As Transformers has written them since 2025: one file, and further ones by name beside it. */
async function templatesOfFiles(modelPath: string): Promise<FoundTemplates | null> {
  const source = 'chat_template.jinja';
  const text = await readTextFile(modelPath, source);
  if (text === undefined) return null;
  const toolText = await readTextFile(modelPath, `additional_chat_templates/${toolUse}.jinja`);
  return { source, text, toolText: toolText ?? null };
}

async function templatesOfConfig(modelPath: string): Promise<FoundTemplates | null> {
  const own = 'chat_template.json';
  const ownJson = await readJsonFile(modelPath, own);
  const source = ownJson === undefined ? 'tokenizer_config.json' : own;
  const json = ownJson ?? (await readJsonFile(modelPath, source)) ?? {};
  const found = parseAs(templateSchema, json, modelPath, source).chat_template;
  if (found == null) return null;
  if (typeof found === 'string') return { source, text: found, toolText: null };
  const named = new Map(found.map(({ name, template }) => [name, template]));
  const text = named.get('default');
  return text === undefined ? null : { source, text, toolText: named.get(toolUse) ?? null };
}

/** As vLLM's flag: what looks like a template is one, anything else is a file's path. */
async function givenTemplate(given: string): Promise<FoundTemplates> {
  const source = '--chat-template';
  if (/[{}\n]/.test(given)) return { source, text: given, toolText: null };
  const text = await readFile(given, 'utf8').catch((error: unknown) => {
    throw refusedFlag(`its file cannot be read (${messageOf(error)})`, error);
  });
  return { source: given, text, toolText: null };
}

function refusedFlag(what: string, cause: unknown): VllmPdError {
  const message = `Expected a Jinja template or the path of one for --chat-template, but ${what}.`;
  return new VllmPdError('INVALID_ARGUMENT', message, { cause, param: 'chat-template' });
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
